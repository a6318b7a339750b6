"""Which runs there are, and what became of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dltrain.errors import RunError
from dltrain.recording.metrics_file import last_step
from dltrain.run import Run


@dataclass(frozen=True)
class RunInfo:
    """A run at a glance.

    Attributes:
        run: Its directory.
        state: `running`, `done`, `stopped`, `failed`, `killed`; or `damaged`, where its
            `summary.json` can't be read.
        step: The last one that it recorded.
        best: `metric`, `value` and `step` of its best checkpoint; None where none is marked.
        age: Seconds since it started.
    """

    run: str
    state: str
    step: int | None
    best: dict[str, Any] | None
    age: float


def runs(directory: Path = Path("runs")) -> list[RunInfo]:
    """The runs in a directory and in those below it, by path.

    Raises:
        RunError: There is no such directory.
    """
    return [info(run) for run in find_runs(directory)]


def find_runs(directory: Path) -> Iterator[Run]:
    """Every run directory from here downward, by path; links are not followed.

    Raises:
        RunError: There is no such directory.
    """
    if not directory.is_dir():
        raise RunError(f"{directory}: there is no such directory; runs are in runs/ by default")
    for place, folders, files in os.walk(directory):
        folders.sort()
        if {"config.yaml", "metrics.jsonl"} <= set(files):
            folders.clear()
            yield Run(Path(place))


def info(run: Run) -> RunInfo:
    """One run at a glance; nothing in it is changed."""
    try:
        state, ended = run.state, run.summary()
    except RunError:
        state, ended = "damaged", None
    return RunInfo(
        run=str(run.directory),
        state=state,
        step=last_step(run.metrics_path) if ended is None or state == "running" else ended.step,
        best=_marked_best(run) or (ended.best if ended else None),
        age=time.time() - _started(run),
    )


def higher_is_better(run: Run) -> bool | None:
    """Of what chooses the best checkpoint; None where none is marked, or by an earlier version."""
    try:
        return _read_best(run).get("higher_is_better")
    except (OSError, ValueError, AttributeError):
        return None


def _read_best(run: Run) -> Any:
    return json.loads((run.checkpoints().directory / "best.json").read_bytes())


def _marked_best(run: Run) -> dict[str, Any] | None:
    """What the checkpoints call the best; it is up to date while the run goes on."""
    try:
        marked = _read_best(run)
        return {key: marked[key] for key in ("metric", "value", "step")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _started(run: Run) -> float:
    """Seconds since the epoch; the config is the first thing that a run writes."""
    try:
        return datetime.strptime(run.record()["started"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (RunError, ValueError, TypeError):
        return run.config_path.stat().st_mtime
