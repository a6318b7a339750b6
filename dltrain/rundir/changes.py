"""Differences between a recorded run and the config, code and data of this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dltrain.config import HARMLESS, LENGTH, ROUNDING, Experiment, changes, refuse_changes
from dltrain.config.user_code import code_changes, code_of, is_loaded
from dltrain.core.errors import RunError, shorten
from dltrain.rundir.directory import Run
from dltrain.rundir.provenance import plugin_paths


def current_code(experiment: Experiment, plugins: Iterable[Path]) -> dict[str, str]:
    """Return hashes of the user's own code in an experiment; see `code_of`."""
    return code_of((component.builder for component in experiment.components), plugins)


def changed_code(experiment: Experiment, record: Mapping[str, Any]) -> list[str]:
    """Return how the user's own code differs from the code of the training, one line per file."""
    return code_changes(record["code"], current_code(experiment, loaded_plugins(record)))


def loaded_plugins(record: Mapping[str, Any]) -> list[Path]:
    """Return those of a run's plug-ins that this process has loaded; no other file is opened."""
    return [path for path in plugin_paths(record) if is_loaded(path)]


def changes_since_training(
    run: Run, experiment: Experiment, overrides: Sequence[str] = ()
) -> list[str]:
    """Return how config and code differ from those of the training, one line per difference.

    Args:
        run: The run.
        experiment: The run's experiment as it is loaded now.
        overrides: KEY=VALUE that were applied to its config on purpose.
    """
    try:
        record = run.record()
    except RunError as error:
        return [f"{error}: config and code can't be compared with those of the training"]
    chosen = [override.partition("=")[0] for override in overrides]
    edits = changes(
        record["config"], experiment.to_dict(), (*HARMLESS, *ROUNDING, *LENGTH, *chosen)
    )
    return [*(f"{run.config_path}: {edit}" for edit in edits), *changed_code(experiment, record)]


def refuse_changed_config(
    experiment: Experiment, record: Mapping[str, Any], allowed: Sequence[str] = ()
) -> None:
    """Raise a ConfigError where the config differs from the one that the run was started with.

    Args:
        experiment: The experiment with the current config.
        record: Record of the run; see `Run.record`.
        allowed: Keys that may change, in addition to those that do not affect any result.
    """
    hint = "change it back, or train the changed config as a new run"
    refuse_changes(experiment, record["config"], (*HARMLESS, *allowed), hint)


def refuse_changed_data(run: Run, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise a RunError where the fingerprint of the data has changed.

    Args:
        run: The run.
        before: `data_record` when the run was started.
        now: `data_record` of the data as it is read now.
    """
    if before["fingerprint"] != now["fingerprint"]:
        raise RunError(
            f"the data is not what {run.directory} was trained on: it came from "
            f"{before['source']}, and now from {now['source']}"
        )


def incompatible_checkpoint(path: Path, run: Run, error: Exception) -> str:
    """Return the message for a checkpoint that does not fit the model or optimizer of the config.

    Args:
        path: The checkpoint.
        run: The run that it belongs to.
        error: What loading the checkpoint raised.
    """
    reason = shorten(" ".join(str(error).split()), 300)
    return f"{path} does not fit what {run.config_path} builds now: {reason}"
