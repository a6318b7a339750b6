"""List runs with their state, last step and best value."""

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

MAX_DEPTH = 64
"""Number of directory levels that are searched."""


@dataclass(frozen=True)
class RunInfo:
    """Summary of a run in one line.

    Attributes:
        run: The run directory.
        state: `running`, `done`, `stopped`, `pruned`, `failed` or `killed`; `damaged` if a file of
            the run can't be read.
        step: Last recorded step; None if nothing was recorded.
        best: `metric`, `value` and `step` of the best checkpoint; None if none is marked.
        age: Seconds since the run started.
        reason: Why the run is `damaged`; None in any other state.
    """

    run: str
    state: str
    step: int | None
    best: dict[str, Any] | None
    age: float
    reason: str | None = None


def runs(directory: str | Path = "runs") -> list[RunInfo]:
    """List the runs in a directory and its subdirectories, sorted by path.

    Args:
        directory: Directory to search.

    Raises:
        RunError: There is no such directory.
    """
    return [run_info(run) for run in find_runs(directory)]


def find_runs(directory: str | Path) -> Iterator[Run]:
    """Yield every run in a directory and its subdirectories, by path; links are not followed.

    Args:
        directory: Directory to search.

    Raises:
        RunError: There is no such directory.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise RunError(f"{directory}: no such directory; by default runs are in runs/")
    for path, folders, files in os.walk(directory):
        folders.sort()
        # Entries of any kind: a run with a directory in place of a file is listed as damaged.
        if {"config.yaml", "metrics.jsonl"} <= {*files, *folders}:
            folders.clear()
            yield Run(Path(path))
        elif len(Path(path).parts) > MAX_DEPTH + len(directory.parts):
            folders.clear()


def run_info(run: Run) -> RunInfo:
    """Summarize a run without changing anything in it."""
    directory = str(run.directory)
    try:
        run.verify()
    except RunError as error:
        reason = _reason(error, directory)
        return RunInfo(directory, "damaged", None, None, time.time() - _creation_time(run), reason)
    try:
        state, summary, reason = run.state, run.summary(), None
        step = summary.step if summary and state != "running" else last_step(run.metrics_path)
        best = _marked_best(run) or (dict(summary.best) if summary and summary.best else None)
    except RunError as error:
        state, step, best, reason = "damaged", None, None, _reason(error, directory)
    return RunInfo(directory, state, step, best, time.time() - _start_time(run), reason)


def _reason(error: RunError, directory: str) -> str:
    """Return a short message without the run directory, which is shown beside it."""
    return str(error).removeprefix(directory).lstrip("/: ").partition(";")[0]


def higher_is_better(run: Run) -> bool | None:
    """Return the direction of the metric that chooses the best checkpoint.

    Returns:
        None where no checkpoint is marked as best, or an earlier version of dltrain marked it.
    """
    try:
        marked = run.checkpoints().marked_best()
    except RunError:
        return None
    return None if marked is None else marked.get("higher_is_better")


def _marked_best(run: Run) -> dict[str, Any] | None:
    """Return metric, value and step of the checkpoint that is marked as best, even while running.

    Raises:
        RunError: The mark is damaged.
    """
    if (marked := run.checkpoints().marked_best()) is None:
        return None
    return {"metric": marked["metric"], "value": marked["value"], "step": marked["step"]}


def _start_time(run: Run) -> float:
    """Return the recorded start in seconds since the epoch; without a record, the creation time."""
    try:
        return datetime.strptime(run.record()["started"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (RunError, ValueError, OverflowError):
        return _creation_time(run)


def _creation_time(run: Run) -> float:
    """Return when the config, the first file of a run, was written."""
    try:
        return run.config_path.lstat().st_mtime
    except OSError:
        return time.time()
