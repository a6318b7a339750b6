"""Train an experiment with several seeds, to measure how much results depend on chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dltrain.checkpoints.untrusted_files import DirectoryLayout, verify
from dltrain.commands.compare import Group, compare
from dltrain.commands.resume import resume
from dltrain.commands.train import train
from dltrain.config import HARMLESS, ROUNDING, Experiment, changes
from dltrain.core.errors import UsageError
from dltrain.rundir.directory import Run, next_directory, run_folder
from dltrain.rundir.summary import Summary

LAYOUT = DirectoryLayout({}, [], closed=["seed-[0-9]+"])
"""Layout of a directory of runs that differ in their seed only."""


@dataclass(frozen=True)
class Seeds:
    """Runs that differ in their seed only.

    Attributes:
        directory: Directory that holds a run directory per seed, `seed-N`.
        summaries: Summary of each run.
        groups: Groups of `compare`: one, unless the directory has other runs too.
    """

    directory: str
    summaries: list[Summary]
    groups: list[Group]


def train_seeds(
    experiments: Sequence[Experiment],
    *,
    directory: str | Path | None = None,
    quiet: bool = False,
    plugins: Sequence[str | Path] = (),
) -> Seeds:
    """Train one run after another.

    Runs in the directory that are done are kept, interrupted runs are resumed, and runs that were
    killed before their first checkpoint are restarted.

    Args:
        experiments: One experiment per seed.
        directory: Directory of the runs (default: the next free number under `runs/NAME/`).
        quiet: Whether to show errors only.
        plugins: Files of the user's own components, for the record.

    Raises:
        UsageError: The directory holds seeds of another config; nothing was trained.
        RunError: A run failed, and later ones were not started. Or the directory has a file that
            no run has; see `untrusted_files.verify`.
        InterruptedRunError: A signal interrupted a run, after a checkpoint.
    """
    if directory is None:
        directory = next_directory(run_folder(experiments[0].name))
    else:
        directory = Path(directory)
        _refuse_other_config(directory, experiments[0])
    summaries = []
    for experiment in experiments:
        run = Run(directory / f"seed-{experiment.seed}")
        if any(run.checkpoints().all()):
            summaries.append(resume(run.directory, quiet=quiet))
        else:
            run.discard_unsaved()
            summaries.append(train(experiment, run_dir=run.directory, quiet=quiet, plugins=plugins))
    return Seeds(str(directory), summaries, compare([directory]))


def _refuse_other_config(directory: Path, experiment: Experiment) -> None:
    """Raise a UsageError where an existing seed has another config.

    Raises a RunError where the directory, or a run in it, has a file that no run has.
    """
    verify(directory, LAYOUT)
    for path in sorted(directory.glob("seed-*")):
        run, seed = Run(path), path.name.removeprefix("seed-")
        if not seed.isdecimal():
            continue
        run.verify()
        if not any(run.checkpoints().all()):
            continue  # it is restarted
        now = {**experiment.to_dict(), "seed": int(seed)}
        if edits := changes(run.record()["config"], now, (*HARMLESS, *ROUNDING)):
            described = ", ".join(map(str, edits))
            raise UsageError(
                f"{directory} holds seeds of another config ({path.name}: {described}); "
                "choose another --run-dir"
            )
