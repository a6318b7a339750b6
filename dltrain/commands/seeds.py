"""Train an experiment with several seeds: a group, whose spread says how much chance there is."""

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
"""A directory of runs that differ in their seed."""


@dataclass(frozen=True)
class Seeds:
    """Runs that differ in their seed.

    Attributes:
        directory: Holds a run directory for each, `seed-N`.
        summaries: How each ended.
        groups: What `compare` makes of them: one, unless the directory held others.
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
    """Trains one after another; those that a stopped call has finished are left as they are.

    One that was stopped goes on; one that was killed before it had saved anything starts over.

    Args:
        experiments: One for each seed.
        directory: Where; the next free number under `runs/NAME/` if not given.
        quiet: Whether to show nothing but errors.
        plugins: Files of the user's own components, for the record.

    Raises:
        UsageError: The directory holds seeds of another config; nothing was trained.
        RunError: A run failed; later ones are not begun. Or the directory holds what it should not;
            see `run_files.verify`.
        InterruptedRunError: A signal stopped one, after a checkpoint.
    """
    if directory is None:
        directory = next_directory(run_folder(experiments[0].name))
    else:
        directory = Path(directory)
        _refuse_others(directory, experiments[0])
    summaries = []
    for experiment in experiments:
        run = Run(directory / f"seed-{experiment.seed}")
        if any(run.checkpoints().all()):
            summaries.append(resume(run.directory, quiet=quiet))
        else:
            run.discard_unsaved()
            summaries.append(train(experiment, run_dir=run.directory, quiet=quiet, plugins=plugins))
    return Seeds(str(directory), summaries, compare([directory]))


def _refuse_others(directory: Path, experiment: Experiment) -> None:
    """Raises a UsageError where a seed that is there already is one of another config.

    And a RunError where the directory, or a run in it, holds what it should not.
    """
    verify(directory, LAYOUT)
    for place in sorted(directory.glob("seed-*")):
        run, seed = Run(place), place.name.removeprefix("seed-")
        if not seed.isdecimal():
            continue
        run.verify()
        if not any(run.checkpoints().all()):
            continue  # it starts over
        now = {**experiment.to_dict(), "seed": int(seed)}
        if found := changes(run.record()["config"], now, (*HARMLESS, *ROUNDING)):
            described = ", ".join(map(str, found))
            raise UsageError(
                f"{directory} holds seeds of another config ({place.name}: {described}); "
                "choose another --run-dir"
            )
