"""Which runs there are, and what became of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dltrain.core.errors import RunError
from dltrain.loggers.jsonl import last_step
from dltrain.rundir.directory import Run

DEEPEST = 64
"""Directories below the one that is searched."""


@dataclass(frozen=True)
class RunInfo:
    """A run at a glance.

    Attributes:
        run: Its directory.
        state: `running`, `done`, `stopped`, `failed`, `killed`; or `damaged`, where it can't be
            read.
        step: The last one that it recorded.
        best: `metric`, `value` and `step` of its best checkpoint; None where none is marked.
        age: Seconds since it started.
        reason: Why it is `damaged`; None where it is not.
    """

    run: str
    state: str
    step: int | None
    best: dict[str, Any] | None
    age: float
    reason: str | None = None


def runs(directory: str | Path = "runs") -> list[RunInfo]:
    """The runs in a directory and in those below it, by path.

    Raises:
        RunError: There is no such directory.
    """
    return [info(run) for run in find_runs(directory)]


def find_runs(directory: str | Path) -> Iterator[Run]:
    """Every run directory from here downward, by path; links are not followed.

    Raises:
        RunError: There is no such directory.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise RunError(f"{directory}: there is no such directory; runs are in runs/ by default")
    for place, folders, files in os.walk(directory):
        folders.sort()
        # Whatever has these names: a directory in the place of a file is a damaged run.
        if {"config.yaml", "metrics.jsonl"} <= {*files, *folders}:
            folders.clear()
            yield Run(Path(place))
        elif len(Path(place).parts) > DEEPEST + len(directory.parts):
            folders.clear()


def info(run: Run) -> RunInfo:
    """One run at a glance; nothing in it is changed."""
    place = str(run.directory)
    try:
        run.verify()
    except RunError as error:
        reason = _short(error, place)
        return RunInfo(place, "damaged", None, None, time.time() - _begun(run), reason)
    try:
        state, ended, reason = run.state, run.summary(), None
        step = last_step(run.metrics_path) if ended is None or state == "running" else ended.step
        best = _marked_best(run) or (dict(ended.best) if ended and ended.best else None)
    except RunError as error:
        state, step, best, reason = "damaged", None, None, _short(error, place)
    return RunInfo(place, state, step, best, time.time() - _started(run), reason)


def _short(error: RunError, place: str) -> str:
    """Without the run's directory, which is told beside it."""
    return str(error).removeprefix(place).lstrip("/: ").partition(";")[0]


def higher_is_better(run: Run) -> bool | None:
    """Of what chooses the best checkpoint; None where none is marked, or by an earlier version."""
    try:
        marked = run.checkpoints().marked_best()
    except RunError:
        return None
    return None if marked is None else marked.get("higher_is_better")


def _marked_best(run: Run) -> dict[str, Any] | None:
    """What the checkpoints call the best; it is up to date while the run goes on.

    Raises:
        RunError: It is damaged.
    """
    if (marked := run.checkpoints().marked_best()) is None:
        return None
    return {"metric": marked["metric"], "value": marked["value"], "step": marked["step"]}


def _started(run: Run) -> float:
    """Seconds since the epoch, as the record says, or else when the run's config was written."""
    try:
        return datetime.strptime(run.record()["started"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (RunError, ValueError, OverflowError):
        return _begun(run)


def _begun(run: Run) -> float:
    """When the config was written, the first thing that a run writes."""
    try:
        return run.config_path.lstat().st_mtime
    except OSError:
        return time.time()
