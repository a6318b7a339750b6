"""Remove runs: a plan lists them first, and only files that dltrain wrote are removed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dltrain.checkpoints.atomic_files import remove as remove_entry
from dltrain.commands.runs import RunInfo, find_runs, higher_is_better, run_info
from dltrain.core.errors import RunError
from dltrain.core.paths import as_paths
from dltrain.loggers.jsonl import read_scalars
from dltrain.rundir.directory import Run

# The config comes almost last: a directory is still a run after an interrupted removal.
RUN_ENTRIES = (
    *("tensorboard", "checkpoints", "exports", "report.html", "samples.png", "log.txt"),
    *("record.json", "inputs.json", "summary.json", "metrics.jsonl", "config.yaml", "lock"),
)
"""Entries that dltrain writes into a run directory, except temporary files."""


@dataclass(frozen=True)
class Removal:
    """A plan of what to remove.

    Attributes:
        remove: Run directories to remove.
        keep: Run directories to keep, each with the reason.
    """

    remove: list[str]
    keep: dict[str, str]


def plan(paths: str | Path | Iterable[str | Path], *, keep_best: bool = False) -> Removal:
    """Decide what to remove, without removing anything. Running runs are always kept.

    Args:
        paths: One or several run directories; with `keep_best`, directories that contain runs.
        keep_best: Whether to keep the best of the runs with equal `name` and `checkpoint.best`, and
            to remove the others, including those without a value. If the best run can't be
            determined, all of them are kept.

    Raises:
        RunError: A path is not a run directory, or no run may be removed.
    """
    paths = as_paths(paths)
    if keep_best:
        found = [run_info(run) for path in paths for run in find_runs(path)]
        remove, keep = _all_but_best(found)
    else:
        found = [run_info(_run_at(path)) for path in paths]
        refused = {run.run: reason for run in found if (reason := _refusal(run)) is not None}
        if len(refused) == len(paths):
            raise RunError("\n".join(refused.values()))
        remove, keep = [run.run for run in found], refused
    for run in found:
        if run.state == "running":
            keep[run.run] = "it is running"
    return Removal([run for run in dict.fromkeys(remove) if run not in keep], keep)


def remove(removal: Removal) -> list[str]:
    """Remove the runs of a plan.

    Returns:
        A line for each directory that remains because of other files in it.

    Raises:
        RunError: A run has been resumed since the plan was made, or a file can't be removed.
    """
    return [line for path in removal.remove for line in _remove(_run_at(Path(path)))]


def _run_at(path: Path) -> Run:
    if path.is_symlink():
        raise RunError(f"{path} is a link: give the run directory itself")
    for name in ("config.yaml", "metrics.jsonl"):
        if not os.path.lexists(path / name):
            raise RunError(f"{path} is not a run directory: it has no {name}")
    return Run(path)


def _refusal(run: RunInfo) -> str | None:
    """Return why a run must not be touched: an entry may lead out of the directory."""
    try:
        Run(Path(run.run)).verify()
    except RunError as error:
        return str(error)
    return None


def _remove(run: Run) -> list[str]:
    try:
        with run.locked():  # which also removes leftovers, and refuses links
            for name in RUN_ENTRIES:
                remove_entry(run.directory / name)
            others = sorted(path.name for path in run.directory.iterdir())
            if not others:
                run.directory.rmdir()
    except OSError as error:
        path = error.filename or run.directory
        raise RunError(f"{path}: can't be removed: {error.strerror or error}") from error
    if not others:
        return []
    return [f"{run.directory} remains, with files that dltrain did not write: {', '.join(others)}"]


def _all_but_best(found: Sequence[RunInfo]) -> tuple[list[str], dict[str, str]]:
    """Return the runs to remove, and those to keep with the reason."""
    groups: dict[tuple[str, str | None], list[RunInfo]] = {}
    for run in found:
        groups.setdefault(_group_key(Path(run.run)), []).append(run)
    remove: list[str] = []
    keep: dict[str, str] = {}
    for (name, metric), members in groups.items():
        damaged = {run.run: f"damaged: {run.reason}" for run in members if run.state == "damaged"}
        keep |= damaged
        group = [run for run in members if run.run not in damaged]
        if not group:
            continue
        valued = [run for run in group if run.best and run.best["metric"] == metric]
        higher = _higher_is_better(metric, valued) if metric else None
        if len(group) == 1:
            keep[group[0].run] = f"the only run of {name}"
        elif metric is None:
            keep |= {run.run: "its config has no checkpoint.best" for run in group}
        elif higher is None:
            keep |= {run.run: f"the best {metric} can't be determined" for run in group}
        else:
            sign = 1 if higher else -1
            best = max(valued, key=lambda run: sign * _value(run))
            keep[best.run] = f"the best {metric} of {name}: {_value(best):.6g}"
            remove += [run.run for run in group if run is not best]
    return remove, keep


def _value(run: RunInfo) -> float:
    assert run.best is not None
    return run.best["value"]


def _group_key(directory: Path) -> tuple[str, str | None]:
    """Return the config's `name` and `checkpoint.best`; an unreadable config has its own key."""
    try:
        config = Run(directory).config()
        name, best = config["name"], config["checkpoint"]["best"]
    except (RunError, KeyError, TypeError):
        return str(directory), None
    return (name, best) if isinstance(name, str) and isinstance(best, str) else (str(name), None)


def _higher_is_better(metric: str, runs: Sequence[RunInfo]) -> bool | None:
    """Return the direction of a metric, as the best checkpoints of the runs record it.

    A lower loss is better. Earlier versions recorded no direction: there, the best value is the
    highest or the lowest of a run's values.

    Returns:
        None if no run determines the direction, for example because each has a single value.
    """
    if metric.endswith("loss"):
        return False if runs else None
    for run in runs:
        if (marked := higher_is_better(Run(Path(run.run)))) is not None:
            return marked
        try:
            scalars = read_scalars(Run(Path(run.run)).metrics_path).get(metric, [])
        except RunError:
            continue
        values = [value for _, value in scalars if value is not None]
        if values and min(values) < max(values) and _value(run) in (min(values), max(values)):
            return _value(run) == max(values)
    return None
