"""metrics.jsonl: every scalar, a line each."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from typing_extensions import TypedDict

from dltrain.checkpoints.atomic_files import regular
from dltrain.checkpoints.untrusted_files import MIB, Count, checked
from dltrain.core.errors import RunError
from dltrain.loggers.base import Recorder

Scalars = list[tuple[int, float | None]]
"""A scalar's values, each with its step; None where it was not finite."""


MOST_BYTES_READ = 256 * MIB
MOST_LINE_BYTES = 4096
MOST_SCALARS = 10_000
"""Names in one file."""


def read_scalars(path: Path) -> dict[str, Scalars]:
    """Every scalar of a `metrics.jsonl`, by SPLIT/NAME; empty where there is no such file.

    A last line that a run has not finished writing is left out.

    Raises:
        RunError: The file can't be read, is too large, or a line of it is damaged.
    """
    scalars: dict[str, Scalars] = {}
    try:
        with _opened(path) as file:
            if os.fstat(file.fileno()).st_size > MOST_BYTES_READ:
                raise RunError(
                    f"{path}: has more than the {MOST_BYTES_READ // MIB} MB that are read"
                )
            for number, text in enumerate(iter(lambda: file.readline(MOST_LINE_BYTES), b""), 1):
                if not text.endswith(b"\n") and len(text) < MOST_LINE_BYTES:
                    break  # not written to its end
                try:
                    name, point = _scalar(text)
                except ValueError as error:
                    raise RunError(f"{path}: damaged: line {number}: {error}") from error
                scalars.setdefault(name, []).append(point)
                if len(scalars) > MOST_SCALARS:
                    raise RunError(f"{path}: has more than {MOST_SCALARS:,} names of scalars")
    except FileNotFoundError:
        return scalars
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error.strerror}") from error
    return scalars


def last_step(path: Path) -> int | None:
    """The step of the last line, without reading the others; None where there is none.

    Raises:
        RunError: The file can't be read.
    """
    try:
        with _opened(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_LINE_BYTES))
            lines = file.read(MOST_LINE_BYTES).split(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error.strerror}") from error
    for text in reversed(lines):
        try:
            return _scalar(text)[1][0]
        except ValueError:  # cut at either end
            continue
    return None


def _opened(path: Path) -> BinaryIO:
    return open(path, "rb", opener=regular)


def _scalar(text: bytes) -> tuple[str, tuple[int, float | None]]:
    """A line's SPLIT/NAME, step and value.

    By hand and not by a schema: a report reads hundreds of thousands.

    Raises:
        ValueError: It is no such line.
    """
    try:
        line = json.loads(text)
        split, name, step, value = line["split"], line["name"], line["step"], line["value"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("it is not what dltrain writes") from error
    texts = isinstance(split, str) and isinstance(name, str)
    if not texts or type(step) is not int or not 0 <= step < 2**63:
        raise ValueError("expected a split, a name and a step")
    is_number = type(value) is float or (type(value) is int and abs(value) < 2**63)
    if value is not None and not (is_number and math.isfinite(value)):
        raise ValueError("expected a finite value, or null")
    return f"{split}/{name}", (step, value)


class _Position(TypedDict):
    bytes: Count


class MetricsFile(Recorder):
    """Appends `{"step", "epoch", "split", "name", "value"}` lines; a value not finite is null."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab", opener=regular)  # noqa: SIM115

    def scalars(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Appends a line for each scalar."""
        for name, value in values.items():
            line = {
                "step": step,
                "epoch": round(epoch, 6),
                "split": split,
                "name": name,
                "value": value if math.isfinite(value) else None,
            }
            self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def position(self) -> dict[str, Any]:
        """The file's length."""
        self._file.flush()
        return {"bytes": self._file.tell()}

    def sync(self) -> None:
        """Flushes the file to the disk."""
        os.fsync(self._file.fileno())

    def restore(self, position: Mapping[str, Any]) -> None:
        """Cuts off what was written after the checkpoint; a file that was shortened stays so."""
        checked(position, _Position)
        length = self._file.seek(0, os.SEEK_END)
        self._file.truncate(min(length, position["bytes"]))
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
