"""Train an experiment in a new run directory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

from dltrain.build import build_task, build_trainer
from dltrain.commands.fit import (
    TrainingInputs,
    fit,
    log_message,
    open_loggers,
    read_training_inputs,
    training_process_group,
)
from dltrain.commands.guards import disk_errors
from dltrain.commands.resume import resume_run
from dltrain.config import Experiment
from dltrain.core.errors import RunError
from dltrain.core.paths import as_paths, data_folder
from dltrain.core.protocols import ProcessGroup
from dltrain.distributed.process_group import launch, restarts
from dltrain.loggers import Logger
from dltrain.rundir.changes import current_code
from dltrain.rundir.directory import Run, run_folder
from dltrain.rundir.provenance import Record
from dltrain.rundir.summary import Summary
from dltrain.training.validation import validate


def train(
    experiment: Experiment,
    *,
    run_dir: str | Path | None = None,
    quiet: bool = False,
    plugins: Sequence[str | Path] = (),
    loggers: Sequence[Logger] = (),
) -> Summary:
    """Train an experiment in a new run directory.

    In a notebook, progress and curves appear below the cell; on a terminal, a progress bar and
    lines. Each rank that torchrun started calls this, and the first rank writes. Ranks that
    torchrun has restarted resume the run that they had started.

    Args:
        experiment: The experiment; see `dltrain.load`.
        run_dir: Run directory (default: the next free number under `runs/NAME/`).
        quiet: Whether to show errors only.
        plugins: Files of the user's own components, for the record.
        loggers: Loggers that receive metrics and events on the first rank, in addition to the
            run's own. One that raises PrunedError ends the run with status `pruned`.

    Returns:
        The run's summary.

    Raises:
        ConfigError: The experiment can't be trained as its config says; no run directory exists.
        DataError: The data is missing or damaged; no run directory exists.
        RunError: The run failed; `summary.json` has the reason too.
        InterruptedRunError: A signal interrupted the run, after a checkpoint.
    """
    with training_process_group(experiment) as process_group:
        existing, has_checkpoint = existing_run(experiment, run_dir, process_group)
        if existing is not None and has_checkpoint:
            return resume_run(existing, experiment, process_group, quiet=quiet, loggers=loggers)
        inputs = read_training_inputs(experiment, process_group, quiet=quiet)
        return start_run(
            experiment,
            inputs,
            existing,
            run_dir=run_dir,
            quiet=quiet,
            plugins=plugins,
            loggers=loggers,
        )


def existing_run(
    experiment: Experiment, run_dir: str | Path | None, process_group: ProcessGroup
) -> tuple[Run | None, bool]:
    """Return the run that these ranks started before torchrun restarted them, if any.

    Returns:
        The run, or None; and whether it has a checkpoint to resume from.
    """
    restarted = process_group.all_reduce_max(restarts()) > 0
    directory = None if run_dir is None else Path(run_dir)
    run = process_group.broadcast_object(
        lambda: _find_existing(launch(), restarted, experiment.name, directory)
    )
    if run is None:
        return None, False
    return run, process_group.broadcast_object(lambda: bool(run.checkpoints().all()))


def _find_existing(
    launched: Mapping[str, Any] | None, restarted: bool, name: str, directory: Path | None
) -> Run | None:
    """Return the run that a launch started before its ranks were restarted, if any.

    Args:
        launched: Launch of this process, as `process_group.launch` describes it; without one no
            run is found.
        restarted: Whether a rank has been restarted. Only then the id of the launch counts, because
            an earlier launch may have had the same id.
        name: Name of the experiment.
        directory: The run directory, if it is not under `runs/NAME/`.
    """
    if launched is None:
        return None
    folders = [directory] if directory else sorted(run_folder(name).glob("*"), reverse=True)
    for run in map(Run, folders):
        with suppress(RunError):  # a directory without a run, or with a damaged one
            ended, recorded = run.summary(), run.record()["launch"] or {}
            same_id = launched["id"] is not None and recorded.get("id") == launched["id"]
            unfinished = restarted or ended is None or ended.status != "done"
            same_launcher = recorded.get("launcher") == launched["launcher"]
            if (restarted and same_id) or (unfinished and same_launcher):
                return run
    return None


def start_run(
    experiment: Experiment,
    inputs: TrainingInputs,
    existing: Run | None,
    *,
    run_dir: str | Path | None,
    quiet: bool,
    plugins: Sequence[str | Path] = (),
    loggers: Sequence[Logger] = (),
    recorded_folder: str | None = None,
) -> Summary:
    """Train from the first step; see `train`.

    Args:
        experiment: The experiment.
        inputs: Its runtime and data.
        existing: Run without a checkpoint to start again from the beginning.
        run_dir: Run directory.
        quiet: Whether to show errors only.
        plugins: Files of the user's own components, for the record.
        loggers: Additional loggers.
        recorded_folder: Common data folder that another run has recorded.
    """
    started, runtime, plugins = time.perf_counter(), inputs.runtime, as_paths(plugins)
    process_group = runtime.process_group
    task = build_task(experiment, inputs.data.spec, runtime)
    validate(experiment, inputs.data, task, runtime)  # before there is a directory
    directory = None if run_dir is None else Path(run_dir)
    run = existing or process_group.broadcast_object(lambda: Run.create(experiment, directory))
    with disk_errors(run), ExitStack() as stack:
        stack.enter_context(run.locked() if process_group.is_main else nullcontext())
        if existing is not None and process_group.is_main:
            run.reset()
            run.write_config(experiment)
        data = inputs.data_record()
        record = Record(
            config=experiment.to_dict(),
            code=[current_code(experiment, plugins)],
            data=data,
            device=inputs.device_record(),
            plugins=[str(path) for path in plugins],
            data_folder=str(data_folder(recorded_folder)),
            timings={
                "data_seconds": inputs.seconds,
                "build_seconds": time.perf_counter() - started,
            },
        )
        if process_group.is_main:
            run.write_record(record)
        own = open_loggers(stack, run, experiment, inputs, quiet)
        log_message(own, f"run directory: {run.directory}")
        trainer = build_trainer(
            experiment,
            inputs.data,
            task,
            runtime,
            run.checkpoints(experiment.checkpoint.keep),
            [*own, *(loggers if process_group.is_main else ())],
        )
        return fit(trainer, run, runtime, data)
