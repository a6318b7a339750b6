"""metrics.jsonl: every scalar, a line each."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dltrain.recording.base import Recorder

Scalars = list[tuple[int, float | None]]
"""A scalar's values, each with its step; None where it was not finite."""


def read_scalars(path: Path) -> dict[str, Scalars]:
    """Every scalar of a `metrics.jsonl`, by SPLIT/NAME; empty where there is no such file.

    A line that a run has not finished writing is left out.
    """
    scalars: dict[str, Scalars] = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return scalars
    for text in filter(None, lines):
        try:
            line = json.loads(text)
            name, point = f"{line['split']}/{line['name']}", (line["step"], line["value"])
        except (ValueError, KeyError, TypeError):
            continue
        scalars.setdefault(name, []).append(point)
    return scalars


def last_step(path: Path) -> int | None:
    """The step of the last line, without reading the others; None where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    for text in reversed(lines):
        try:
            return int(json.loads(text)["step"])
        except (ValueError, KeyError, TypeError):  # cut at either end
            continue
    return None


class MetricsFile(Recorder):
    """Appends `{"step", "epoch", "split", "name", "value"}` lines; a value not finite is null."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

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
        length = self._file.seek(0, os.SEEK_END)
        self._file.truncate(min(length, position["bytes"]))
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
