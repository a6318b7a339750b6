"""Remove runs: what would go is known before, and nothing goes but what dltrain wrote."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dltrain.checkpoints.atomic_files import remove as remove_entry
from dltrain.commands.runs import RunInfo, find_runs, higher_is_better, info
from dltrain.core.errors import RunError
from dltrain.core.paths import as_paths
from dltrain.loggers.jsonl import read_scalars
from dltrain.rundir.directory import Run

# The config is the last to go: what is left of a removal that was cut short is a run still.
WRITTEN = (
    *("tensorboard", "checkpoints", "exports", "report.html", "samples.png", "log.txt"),
    *("record.json", "inputs.json", "summary.json", "metrics.jsonl", "config.yaml", "lock"),
)
"""What dltrain writes into a run directory, beside temporary files."""


@dataclass(frozen=True)
class Removal:
    """What is to go, and what is not.

    Attributes:
        remove: Run directories.
        keep: Run directories, each with the reason why.
    """

    remove: list[str]
    keep: dict[str, str]


def plan(paths: str | Path | Iterable[str | Path], *, keep_best: bool = False) -> Removal:
    """Decides what to remove; removes nothing. Runs that are running are always kept.

    Args:
        paths: Run directories, or one of them; with `keep_best`, directories that hold runs.
        keep_best: Of the runs with one `name` and one `checkpoint.best`, keep the best, and remove
            the others, those without a value among them. Where it can't be told which is best, all
            are kept.

    Raises:
        RunError: A path is not what it should be.
    """
    paths = as_paths(paths)
    if keep_best:
        found = [info(run) for path in paths for run in find_runs(path)]
        remove, keep = _but_the_best(found)
    else:
        found = [info(_run_at(path)) for path in paths]
        refused = {one.run: reason for one in found if (reason := _refused(one)) is not None}
        if len(refused) == len(paths):
            raise RunError("\n".join(refused.values()))
        remove, keep = [one.run for one in found], refused
    for one in found:
        if one.state == "running":
            keep[one.run] = "it is running"
    return Removal([run for run in dict.fromkeys(remove) if run not in keep], keep)


def remove(removal: Removal) -> list[str]:
    """Removes what a plan says; the lines that it returns tell what is left, and why.

    Raises:
        RunError: A run has begun to run, or a file can't be removed.
    """
    return [line for place in removal.remove for line in _remove(_run_at(Path(place)))]


def _run_at(path: Path) -> Run:
    if path.is_symlink():
        raise RunError(f"{path} is a link: name the run directory itself")
    for name in ("config.yaml", "metrics.jsonl"):
        if not os.path.lexists(path / name):
            raise RunError(f"{path} is not a run directory: it has no {name}")
    return Run(path)


def _refused(one: RunInfo) -> str | None:
    """Why a run must not be touched: something in it may lead out of it."""
    try:
        Run(Path(one.run)).verify()
    except RunError as error:
        return str(error)
    return None


def _remove(run: Run) -> list[str]:
    try:
        with run.locked():  # which removes leftovers, and refuses links
            for name in WRITTEN:
                remove_entry(run.directory / name)
            others = sorted(path.name for path in run.directory.iterdir())
            if not others:
                run.directory.rmdir()
    except OSError as error:
        place = error.filename or run.directory
        raise RunError(f"{place}: can't be removed: {error.strerror or error}") from error
    return [f"{run.directory} stays, with what is not dltrain's: {', '.join(others)}"] * bool(
        others
    )


def _but_the_best(found: Sequence[RunInfo]) -> tuple[list[str], dict[str, str]]:
    """What to remove, and what to keep with its reason."""
    groups: dict[tuple[str, str | None], list[RunInfo]] = {}
    for one in found:
        groups.setdefault(_kind(Path(one.run)), []).append(one)
    remove: list[str] = []
    keep: dict[str, str] = {}
    for (name, metric), members in groups.items():
        damaged = {one.run: f"damaged: {one.reason}" for one in members if one.state == "damaged"}
        keep |= damaged
        group = [one for one in members if one.run not in damaged]
        if not group:
            continue
        valued = [one for one in group if one.best and one.best["metric"] == metric]
        higher = _higher_is_better(metric, valued) if metric else None
        if len(group) == 1:
            keep[group[0].run] = f"the only run of {name}"
        elif metric is None:
            keep |= {one.run: "its config has no checkpoint.best" for one in group}
        elif higher is None:
            keep |= {one.run: f"no telling which {metric} is best" for one in group}
        else:
            sign = 1 if higher else -1
            best = max(valued, key=lambda one: sign * _value(one))
            keep[best.run] = f"the best {metric} of {name}: {_value(best):.6g}"
            remove += [one.run for one in group if one is not best]
    return remove, keep


def _value(one: RunInfo) -> float:
    assert one.best is not None
    return one.best["value"]


def _kind(directory: Path) -> tuple[str, str | None]:
    """The config's `name` and `checkpoint.best`; a config that can't be read is of its own kind."""
    try:
        config = Run(directory).config()
        name, best = config["name"], config["checkpoint"]["best"]
    except (RunError, KeyError, TypeError):
        return str(directory), None
    return (name, best) if isinstance(name, str) and isinstance(best, str) else (str(name), None)


def _higher_is_better(metric: str, runs: Sequence[RunInfo]) -> bool | None:
    """What the runs themselves took for better, as their best checkpoints are marked.

    Earlier versions marked none: there the best is the highest value, or the lowest. A loss is
    better where it is lower. None where no run tells: each has had one value, say.
    """
    if metric.endswith("loss"):
        return False if runs else None
    for one in runs:
        if (marked := higher_is_better(Run(Path(one.run)))) is not None:
            return marked
        try:
            scalars = read_scalars(Run(Path(one.run)).metrics_path).get(metric, [])
        except RunError:
            continue
        values = [value for _, value in scalars if value is not None]
        if values and min(values) < max(values) and _value(one) in (min(values), max(values)):
            return _value(one) == max(values)
    return None
