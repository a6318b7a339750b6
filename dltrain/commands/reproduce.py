"""Train a finished run again from its record, and compare the results bit by bit."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dltrain.checkpoints.loading import load_checkpoint
from dltrain.checkpoints.snapshot import num_bytes
from dltrain.commands.fit import TrainingInputs, read_training_inputs, training_process_group
from dltrain.commands.resume import resume_run
from dltrain.commands.train import existing_run, start_run
from dltrain.config import LENGTH, ROUNDING, Experiment
from dltrain.config import changes as config_changes
from dltrain.core.errors import RunError, print_warning
from dltrain.core.paths import as_paths
from dltrain.loggers.jsonl import read_scalars
from dltrain.rundir import input_files
from dltrain.rundir.changes import changed_code, refuse_changed_config, refuse_changed_data
from dltrain.rundir.directory import Run
from dltrain.rundir.git import git_changes
from dltrain.rundir.provenance import differences

SYSTEM = "system/"
"""Prefix of the scalars of throughput and memory, which are not compared."""


@dataclass(frozen=True)
class ScalarDifference:
    """A value that differs between the two runs.

    Attributes:
        name: SPLIT/NAME.
        step: Step at which it was recorded.
        before: Value of the original; None where it was not finite, or not recorded.
        now: Value of the new run; None likewise.
    """

    name: str
    step: int
    before: float | None
    now: float | None


@dataclass(frozen=True)
class WeightDifference:
    """Difference between the final weights of the two runs.

    Attributes:
        name: Name of the tensor with the largest difference.
        largest: Largest absolute difference between two values; None where one is not finite.
    """

    name: str
    largest: float | None


@dataclass(frozen=True)
class Reproduction:
    """Comparison of a run with its reproduction.

    Attributes:
        original: The original run.
        run: Directory of the new run.
        identical: Whether weights and scalars are bitwise identical.
        weights_sha256: Hashes of the original's final weights and of the new run's.
        weights: Difference of the weights; None where there is none, or where the last checkpoints
            are gone.
        scalars: Number of compared values: all in `metrics.jsonl` except for time and memory.
        differing: Number of values that differ.
        first: The first value that differs, by step.
        largest: The largest absolute difference between two finite values.
        tolerance: The largest relative difference, as a fraction of the larger of the two values;
            None where one of them was not finite or not recorded. All values agree within it.
        changes: Differences in versions, device, threads and code at the start of the new run.
        notes: Remarks on the comparison.
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
    """Train what a run has trained, in a new run directory, and compare the results.

    Config, data and code are those that the record names. Nothing is checked out or downloaded:
    differences are reported.

    Args:
        original: Directory of a run with status `done`.
        run_dir: Directory of the new run (default: the next free number under `runs/NAME/`).
        exact: Whether to fail where versions, device, threads or code differ from those of the
            original; otherwise a line reports each difference.
        quiet: Whether to show errors only.
        plugins: Files of the user's own components, which have been loaded.

    Returns:
        How the new run compares with the original.

    Raises:
        ConfigError: The config is no longer valid, or its components are not available.
        DataError: The data is missing or damaged.
        RunError: The original has no final results, the data has changed, or the new run failed.
        InterruptedRunError: A signal interrupted the new run.
    """
    run, plugins = Run.open(original), as_paths(plugins)
    experiment = run.experiment()
    ended, record = run.summary(), run.record()
    if ended is None or ended.status != "done":
        raise RunError(
            f"{original} is not done, so there is no outcome to compare with; "
            f"resume with: dltrain resume {original}"
        )
    refuse_changed_config(experiment, record, (*ROUNDING, *LENGTH))
    changes = [*map(str, config_changes(record["config"], experiment.to_dict()))]
    notes: list[str] = []
    folder = record["data_folder"]
    with training_process_group(experiment) as process_group:
        existing, has_checkpoint = existing_run(experiment, run_dir, process_group)
        if existing is not None and has_checkpoint:
            summary = resume_run(existing, experiment, process_group, quiet=quiet)
        else:
            inputs = read_training_inputs(
                experiment, process_group, quiet=quiet, recorded_folder=folder
            )
            more, notes = _input_changes(run, experiment, record, inputs, plugins)
            changes += more
            if changes and exact:
                differing = "; ".join(changes)
                raise RunError(f"can't reproduce {original} bitwise identically: {differing}")
            for line in () if quiet else changes:
                print_warning(f"warning: {line}; results may differ")
            summary = start_run(
                experiment,
                inputs,
                existing,
                run_dir=run_dir,
                quiet=quiet,
                plugins=plugins,
                recorded_folder=folder,
            )
    again = Run(Path(summary.run))
    scalars, differing = _compare_scalars(run, again)
    finite = [scalar for scalar in differing if _has_both(scalar)]
    hashes = ended.weights_sha256, summary.weights_sha256
    same = not differing and hashes[0] == hashes[1]
    if not same and record["device"]["type"] != "cpu" and not experiment.train.deterministic:
        notes.append("the config has no train.deterministic: a GPU may give other bits each time")
    return Reproduction(
        original=str(original),
        run=summary.run,
        identical=same,
        weights_sha256=hashes,
        weights=None if hashes[0] == hashes[1] else _weight_difference(run, again),
        scalars=scalars,
        differing=len(differing),
        first=min(differing, key=lambda scalar: scalar.step, default=None),
        largest=max((_distance(scalar)[0] for scalar in finite), default=0.0),
        tolerance=max((_distance(scalar)[1] for scalar in finite), default=0.0)
        if len(finite) == len(differing)
        else None,
        changes=changes,
        notes=notes,
    )


def _input_changes(
    run: Run,
    experiment: Experiment,
    record: dict[str, Any],
    inputs: TrainingInputs,
    plugins: Sequence[Path],
) -> tuple[list[str], list[str]]:
    """Compare data, code and environment with those of the original.

    Returns:
        What differs, and remarks on the comparison.

    Raises:
        RunError: The data has changed.
    """
    recorded = input_files.read(run.directory)
    if recorded is None:
        notes = ["no inputs.json: the data is compared by its fingerprint alone"]
        changes = changed_code(experiment, record)
    else:
        data_files = input_files.changes(recorded.data, inputs.data.files)
        if data_files.changed:
            shown = "; ".join(data_files.changed[:3])
            more = f"; and {rest} more" if (rest := len(data_files.changed) - 3) > 0 else ""
            raise RunError(f"the data is not what {run.directory} was trained on: {shown}{more}")
        plugin_files = input_files.changes(recorded.plugins, plugins)
        changes = plugin_files.changed + plugin_files.others
        changes = changes or changed_code(experiment, record)
        notes = [*data_files.others, *filter(None, [recorded.note])]
    refuse_changed_data(run, record["data"], inputs.data_record())
    environment = differences(record, inputs.device_record())
    return [*changes, *environment, *git_changes(record["git"])], notes


def _compare_scalars(original: Run, again: Run) -> tuple[int, list[ScalarDifference]]:
    """Return the number of values, and those that differ in any bit, in recorded order."""
    before, now = _values(original), _values(again)
    keys = dict.fromkeys([*before, *now])
    differing = [
        ScalarDifference(*key, before.get(key), now.get(key))
        for key in keys
        if key not in before or key not in now or _bits(before[key]) != _bits(now[key])
    ]
    return len(keys), differing


def _values(run: Run) -> dict[tuple[str, int], float | None]:
    return {
        (name, step): value
        for name, points in read_scalars(run.metrics_path).items()
        if not name.startswith(SYSTEM)
        for step, value in points
    }


def _bits(value: float | None) -> bytes | None:
    return None if value is None else struct.pack("<d", value)


def _has_both(scalar: ScalarDifference) -> bool:
    return scalar.before is not None and scalar.now is not None


def _distance(scalar: ScalarDifference) -> tuple[float, float]:
    """Return the absolute difference, and its fraction of the larger value."""
    assert scalar.before is not None
    assert scalar.now is not None
    distance = abs(scalar.before - scalar.now)
    size = max(abs(scalar.before), abs(scalar.now))
    return distance, distance / size if size else 0.0


def _weight_difference(original: Run, again: Run) -> WeightDifference | None:
    """Compare the last checkpoints; None where they can't be read or have other tensors."""
    try:
        now = load_checkpoint(again.checkpoints().find("latest")).model
        before = load_checkpoint(original.checkpoints().find("latest"), num_bytes(now)).model
    except RunError:
        return None
    if {n: t.shape for n, t in before.items()} != {n: t.shape for n, t in now.items()}:
        return None
    largest = {name: _largest_difference(before[name], now[name]) for name in before}
    worst = max(
        largest, key=lambda name: largest[name] if math.isfinite(largest[name]) else math.inf
    )
    return WeightDifference(worst, largest[worst] if math.isfinite(largest[worst]) else None)


def _largest_difference(before: Tensor, now: Tensor) -> float:
    distances = (before.double() - now.double()).abs().flatten()
    return distances.max().item() if len(distances) else 0.0
