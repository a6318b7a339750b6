"""Resume an interrupted run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

from dltrain.build import build_task, build_trainer
from dltrain.checkpoints.loading import DamagedCheckpointError
from dltrain.checkpoints.snapshot import Snapshot, num_bytes, read_on_main
from dltrain.checkpoints.store import CheckpointStore
from dltrain.commands.fit import (
    fit,
    log_message,
    open_loggers,
    print_unless_quiet,
    read_training_inputs,
    training_process_group,
)
from dltrain.commands.guards import disk_errors, restart_hint
from dltrain.config import LENGTH, ROUNDING, Experiment, changes
from dltrain.core.errors import RunError
from dltrain.core.protocols import ProcessGroup
from dltrain.loggers import Logger
from dltrain.rundir.changes import (
    changed_code,
    current_code,
    incompatible_checkpoint,
    loaded_plugins,
    refuse_changed_config,
    refuse_changed_data,
)
from dltrain.rundir.directory import Run
from dltrain.rundir.provenance import differences
from dltrain.rundir.summary import Summary


def resume(
    run_dir: str | Path,
    *,
    quiet: bool = False,
    exact: bool = False,
    loggers: Sequence[Logger] = (),
) -> Summary:
    """Resume a run from its newest valid checkpoint, with bitwise identical results on a CPU.

    Args:
        run_dir: Directory of the run.
        quiet: Whether to show errors only.
        exact: Whether to refuse to resume where versions, device, threads or code differ from
            those of the start, so that results may differ too; otherwise a line reports it.
        loggers: Loggers that receive metrics and events; see `train`.

    Returns:
        The run's summary.

    Raises:
        RunError: There is no valid checkpoint, or the run failed again.
        InterruptedRunError: A signal interrupted the run, after a checkpoint.
    """
    run = Run.open(run_dir)
    experiment = run.experiment()
    with training_process_group(experiment) as process_group:
        return resume_run(run, experiment, process_group, quiet=quiet, exact=exact, loggers=loggers)


def resume_run(
    run: Run,
    experiment: Experiment,
    process_group: ProcessGroup,
    *,
    quiet: bool,
    exact: bool = False,
    loggers: Sequence[Logger] = (),
) -> Summary:
    """Do what `resume` does, in a process group that has been joined already."""
    with disk_errors(run), ExitStack() as stack:
        stack.enter_context(run.locked() if process_group.is_main else nullcontext())
        ended = process_group.broadcast_object(run.summary)
        if ended is not None and ended.status == "done":
            record = process_group.broadcast_object(run.record)
            refuse_changed_config(experiment, record)
            other_code = changed_code(experiment, record)
            _refuse_differences(other_code if exact else [])
            for change in other_code if process_group.is_main else ():
                print_unless_quiet(f"warning: {change}; results may differ", quiet)
            return ended
        checkpoints = run.checkpoints(experiment.checkpoint.keep)
        if not process_group.broadcast_object(checkpoints.all):
            _newest(run, checkpoints, process_group)  # fails before the data is read
        record = process_group.broadcast_object(run.record)
        refuse_changed_config(experiment, record, (*ROUNDING, *LENGTH))
        inputs = read_training_inputs(
            experiment, process_group, quiet=quiet, recorded_folder=record["data_folder"]
        )
        data = inputs.data_record()
        refuse_changed_data(run, record["data"], data)
        edits = changes(record["config"], experiment.to_dict())
        differing = differences(record, inputs.device_record())
        differing += [str(edit) for edit in edits if edit.key not in LENGTH]
        other_code = changed_code(experiment, record)
        _refuse_differences([*other_code, *differing] if exact else [])
        task = build_task(experiment, inputs.data.spec, inputs.runtime)
        size = num_bytes(task.model.state_dict())
        path, snapshot, passed_over = _newest(run, checkpoints, process_group, size)
        own = open_loggers(stack, run, experiment, inputs, quiet)
        trainer = build_trainer(
            experiment,
            inputs.data,
            task,
            inputs.runtime,
            checkpoints,
            [*own, *(loggers if process_group.is_main else ())],
        )
        try:
            trainer.restore(snapshot)
            if process_group.is_main and path.name != f"step-{trainer.state.step:010d}":
                raise ValueError(f"its state is of step {trainer.state.step}")
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise RunError(incompatible_checkpoint(path, run, error)) from error
        for change in other_code:
            log_message(own, f"warning: {change}; results may differ")
        for change in differing:
            log_message(own, f"note: {change}; results may differ in their last bits")
        for edit in edits:
            if edit.key in LENGTH:
                log_message(own, f"note: {edit}")
        for text in (*passed_over, f"resuming from {path}"):
            log_message(own, text)
        if process_group.is_main:
            if other_code:
                run.add_code(record, current_code(experiment, loaded_plugins(record)))
            run.mark_resumed()
        return fit(trainer, run, inputs.runtime, data)


def _newest(
    run: Run,
    checkpoints: CheckpointStore,
    process_group: ProcessGroup,
    model_bytes: int | None = None,
) -> tuple[Path, Snapshot, list[str]]:
    """See `CheckpointStore.newest`; only the first rank reads."""
    path, passed_over = Path(), []

    def newest() -> Snapshot:
        nonlocal path, passed_over
        try:
            path, snapshot, passed_over = checkpoints.newest(model_bytes)
        except DamagedCheckpointError as error:
            error.add_note(restart_hint(run))
            raise
        return snapshot

    snapshot = read_on_main(process_group, newest)
    return path, snapshot, passed_over


def _refuse_differences(differing: Sequence[str]) -> None:
    if differing:
        raise RunError(f"can't resume bitwise identically: {'; '.join(differing)}")
