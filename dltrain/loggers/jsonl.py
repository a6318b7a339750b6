"""metrics.jsonl: one line for each value of a scalar."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from typing_extensions import TypedDict

from dltrain.checkpoints.atomic_files import regular
from dltrain.checkpoints.untrusted_json import MIB, Count, validated
from dltrain.core.errors import RunError
from dltrain.loggers.base import Logger

Scalars = list[tuple[int, float | None]]
"""Steps and values of a scalar; None is a value that was not finite."""

MAX_BYTES = 256 * MIB
"""Size up to which a file is read."""

MAX_LINE_BYTES = 4096
MAX_SCALARS = 10_000
"""Number of different scalars in one file."""


def read_scalars(path: Path) -> dict[str, Scalars]:
    """Read every scalar of a `metrics.jsonl`.

    An incomplete last line, which a run is still writing, is ignored.

    Args:
        path: The file.

    Returns:
        Values by SPLIT/NAME; empty if there is no such file.

    Raises:
        RunError: The file can't be read, is too large, or contains a damaged line.
    """
    scalars: dict[str, Scalars] = {}
    try:
        with _opened(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise RunError(f"{path}: larger than the limit of {MAX_BYTES // MIB} MB")
            for number, text in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
                if not text.endswith(b"\n") and len(text) < MAX_LINE_BYTES:
                    break  # incomplete
                try:
                    name, point = _scalar(text)
                except ValueError as error:
                    raise RunError(f"{path}: damaged: line {number}: {error}") from error
                scalars.setdefault(name, []).append(point)
                if len(scalars) > MAX_SCALARS:
                    raise RunError(f"{path}: contains more than {MAX_SCALARS:,} different scalars")
    except FileNotFoundError:
        return scalars
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error.strerror}") from error
    return scalars


def last_step(path: Path) -> int | None:
    """Read the step of the last line, without the lines before it.

    Args:
        path: The file.

    Returns:
        None if there is no file or no complete line.

    Raises:
        RunError: The file can't be read.
    """
    try:
        with _opened(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_LINE_BYTES))
            lines = file.read(MAX_LINE_BYTES).split(b"\n")
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
    """Parse a line into SPLIT/NAME, step and value.

    Written by hand instead of with a schema, because a report reads hundreds of thousands of lines.

    Raises:
        ValueError: The line has another content.
    """
    try:
        line = json.loads(text)
        split, name, step, value = line["split"], line["name"], line["step"], line["value"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("expected a JSON object with split, name, step and value") from error
    texts = isinstance(split, str) and isinstance(name, str)
    if not texts or type(step) is not int or not 0 <= step < 2**63:
        raise ValueError("expected a split, a name and a step")
    is_number = type(value) is float or (type(value) is int and abs(value) < 2**63)
    if value is not None and not (is_number and math.isfinite(value)):
        raise ValueError("expected a finite value, or null")
    return f"{split}/{name}", (step, value)


class _Position(TypedDict):
    bytes: Count


class MetricsFile(Logger):
    """Append a line `{"step", "epoch", "split", "name", "value"}` for each value.

    A value that is not finite is written as null.

    Args:
        path: The file, created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab", opener=regular)  # noqa: SIM115

    def log_scalars(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Append a line for each scalar."""
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
        """Return the length of the file."""
        self._file.flush()
        return {"bytes": self._file.tell()}

    def sync(self) -> None:
        """Flush the file to the disk."""
        os.fsync(self._file.fileno())

    def restore(self, position: Mapping[str, Any]) -> None:
        """Truncate the file to its length at the checkpoint; never lengthen it."""
        validated(position, _Position)
        length = self._file.seek(0, os.SEEK_END)
        self._file.truncate(min(length, position["bytes"]))
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
