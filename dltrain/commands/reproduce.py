"""Run a finished run again from its record, and compare the outcomes bit for bit."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dltrain.build import Runtime, changed_code
from dltrain.checkpoints.store import load_checkpoint, num_bytes
from dltrain.commands.train import (
    device_of,
    refuse_another_config,
    refuse_other_data,
    train_if,
)
from dltrain.config import LENGTH, ROUNDING
from dltrain.config import changes as changed
from dltrain.core.errors import RunError, print_warning
from dltrain.core.paths import as_paths
from dltrain.core.protocols import Data
from dltrain.loggers.jsonl import read_scalars
from dltrain.rundir import input_files
from dltrain.rundir.directory import Run
from dltrain.rundir.git import git_changes
from dltrain.rundir.provenance import data_record, differences

CLOCK = "system/"
"""Scalars of throughput and memory, which are not compared."""


@dataclass(frozen=True)
class ScalarDifference:
    """A value that is not the same.

    Attributes:
        name: SPLIT/NAME.
        step: At which it was recorded.
        before: Of the original; None where it was not finite, or not recorded.
        now: Of the new run, likewise.
    """

    name: str
    step: int
    before: float | None
    now: float | None


@dataclass(frozen=True)
class WeightDifference:
    """By how much the last weights differ.

    Attributes:
        name: Of the tensor with the largest difference.
        largest: Absolute difference between two numbers; None where one is not finite.
    """

    name: str
    largest: float | None


@dataclass(frozen=True)
class Reproduction:
    """Whether a run came out again.

    Attributes:
        original: The run that was run again.
        run: The new run's directory.
        identical: Whether weights and scalars have the same bits.
        weights_sha256: Of the original's final weights, and of the new run's.
        weights: By how much they differ; None where they don't, or the last checkpoints are gone.
        scalars: Values compared: all in `metrics.jsonl` but those of the clock and the memory.
        differing: How many of them are not the same.
        first: The first that is not, by step.
        largest: The largest absolute difference between two values, both finite.
        tolerance: The largest difference as a share of the larger of the two values; None where
            one of them was not finite or not recorded. All values agree to within it.
        changes: In what the new run was started otherwise: versions, device, threads, code.
        notes: What else is to be known of the comparison.
    """

    original: str
    run: str
    identical: bool
    weights_sha256: tuple[str, str]
    weights: WeightDifference | None
    scalars: int
    differing: int
    first: ScalarDifference | None
    largest: float
    tolerance: float | None
    changes: list[str]
    notes: list[str]


def reproduce(
    original: str | Path,
    *,
    run_dir: str | Path | None = None,
    exact: bool = False,
    quiet: bool = False,
    plugins: Sequence[str | Path] = (),
) -> Reproduction:
    """Trains what a run has trained, in a new run directory, and compares.

    Config, data and code are those that the record names. Nothing is checked out or downloaded for
    it: what is not as it was, is told.

    Args:
        original: A run that is done.
        run_dir: The new run's place; the next free number under `runs/NAME/` if not given.
        exact: Refuse where versions, device, threads or code are not those of the original; else
            a line says so.
        quiet: Whether to show nothing but errors.
        plugins: The files of the user's own components, which have been loaded.

    Raises:
        ConfigError: The config does not hold any more, or its components are not there.
        DataError: The data is missing or damaged.
        RunError: There is no outcome to compare with, the data is not what it was, or the new run
            failed.
        InterruptedRunError: A signal stopped the new run.
    """
    run, plugins = Run.open(original), as_paths(plugins)
    run_dir = None if run_dir is None else Path(run_dir)
    experiment = run.experiment()
    ended, record = run.summary(), run.record()
    if ended is None or ended.status != "done":
        raise RunError(
            f"{original} is not done, so there is no outcome to compare with; "
            f"go on with: dltrain resume {original}"
        )
    refuse_another_config(experiment, record, (*ROUNDING, *LENGTH))
    changes = [*map(str, changed(record["config"], experiment.to_dict()))]
    notes: list[str] = []

    def accept(runtime: Runtime, data: Data) -> None:
        found = input_files.read(run.directory)
        if found is None:
            notes.append("no inputs.json: the data is compared by its fingerprint alone")
            changes.extend(changed_code(experiment, record))
        else:
            of_data = input_files.changes(found.data, data.files)
            if of_data.changed:
                shown = "; ".join(of_data.changed[:3])
                more = f"; and {rest} more" if (rest := len(of_data.changed) - 3) > 0 else ""
                raise RunError(f"the data is not what {original} was trained on: {shown}{more}")
            of_plugins = input_files.changes(found.plugins, plugins)
            of_code = of_plugins.changed + of_plugins.others
            changes.extend(of_code or changed_code(experiment, record))
            notes.extend([*of_data.others, *filter(None, [found.note])])
        described = data_record(experiment.data.name, data, ())
        refuse_other_data(run, record["data"], described)
        changes.extend(differences(record, device_of(runtime)) + git_changes(record["git"]))
        if changes and exact:
            raise RunError(f"can't reproduce {original} exactly: {'; '.join(changes)}")
        if not quiet:
            for line in changes:
                print_warning(f"warning: {line}; results may differ")

    folder = record["data_folder"]
    summary = train_if(accept, experiment, run_dir, quiet, plugins, folder=folder)
    again = Run(Path(summary.run))
    scalars, differing = _compared(run, again)
    hashes = ended.weights_sha256, summary.weights_sha256
    same = not differing and hashes[0] == hashes[1]
    if not same and record["device"]["type"] != "cpu" and not experiment.train.deterministic:
        notes.append("the config has no train.deterministic: a GPU may give other bits each time")
    return Reproduction(
        original=str(original),
        run=summary.run,
        identical=same,
        weights_sha256=hashes,
        weights=None if hashes[0] == hashes[1] else _weights_apart(run, again),
        scalars=scalars,
        differing=len(differing),
        first=min(differing, key=lambda one: one.step, default=None),
        largest=max((_apart(one)[0] for one in differing if _has_both(one)), default=0.0),
        tolerance=max((_apart(one)[1] for one in differing), default=0.0)
        if all(map(_has_both, differing))
        else None,
        changes=changes,
        notes=notes,
    )


def _compared(one: Run, other: Run) -> tuple[int, list[ScalarDifference]]:
    """How many values there are, and those whose bits differ, in the order they were recorded."""
    before, now = _values(one), _values(other)
    places = dict.fromkeys([*before, *now])
    differing = [
        ScalarDifference(*place, before.get(place), now.get(place))
        for place in places
        if place not in before or place not in now or _bits(before[place]) != _bits(now[place])
    ]
    return len(places), differing


def _values(run: Run) -> dict[tuple[str, int], float | None]:
    return {
        (name, step): value
        for name, points in read_scalars(run.metrics_path).items()
        if not name.startswith(CLOCK)
        for step, value in points
    }


def _bits(value: float | None) -> bytes | None:
    return None if value is None else struct.pack("<d", value)


def _has_both(one: ScalarDifference) -> bool:
    return one.before is not None and one.now is not None


def _apart(one: ScalarDifference) -> tuple[float, float]:
    """The absolute difference, and its share of the larger value."""
    assert one.before is not None
    assert one.now is not None
    distance, size = abs(one.before - one.now), max(abs(one.before), abs(one.now))
    return distance, distance / size if size else 0.0


def _weights_apart(one: Run, other: Run) -> WeightDifference | None:
    """By the last checkpoints of both; None where they can't be read, or are not alike."""
    try:
        now = load_checkpoint(other.checkpoints().find("latest")).model
        before = load_checkpoint(one.checkpoints().find("latest"), num_bytes(now)).model
    except RunError:
        return None
    if {n: t.shape for n, t in before.items()} != {n: t.shape for n, t in now.items()}:
        return None
    apart = {name: _largest_between(before[name], now[name]) for name in before}
    worst = max(apart, key=lambda name: apart[name] if math.isfinite(apart[name]) else math.inf)
    return WeightDifference(worst, apart[worst] if math.isfinite(apart[worst]) else None)


def _largest_between(before: Tensor, now: Tensor) -> float:
    distances = (before.double() - now.double()).abs().flatten()
    return distances.max().item() if len(distances) else 0.0
