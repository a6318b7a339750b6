"""Train, and go on training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

from dltrain.build import (
    Runtime,
    build_data,
    build_runtime,
    build_task,
    build_trainer,
    changed_code,
    current_code,
    incompatible_checkpoint,
    loaded_plugins,
    require_no_single_sample_batch,
)
from dltrain.checkpoints.atomic_files import regular, sync
from dltrain.checkpoints.store import (
    CheckpointStore,
    DamagedCheckpointError,
    Snapshot,
    num_bytes,
    read_on_main,
    weights_sha256,
)
from dltrain.commands.guards import (
    collector_spared,
    disk_errors,
    in_words,
    signals,
    start_again,
)
from dltrain.config import (
    HARMLESS,
    LENGTH,
    PLACE,
    ROUNDING,
    Experiment,
    refuse_changes,
    user_code,
    values_of,
)
from dltrain.config import changes as changed
from dltrain.core.batch import Batch
from dltrain.core.errors import (
    InterruptedRunError,
    PrunedError,
    RunError,
    escape_control_characters,
    print_warning,
)
from dltrain.core.paths import data_folder
from dltrain.core.protocols import Data, ProcessGroup
from dltrain.distributed.fsdp import gather_to_main
from dltrain.distributed.process_group import join_process_group, launch, restarts
from dltrain.loggers import Logger, MetricsFile, Progress, TensorBoard
from dltrain.reporting.notebook import NotebookProgress, in_kernel
from dltrain.rundir import input_files
from dltrain.rundir.directory import Run, Status, Summary
from dltrain.rundir.provenance import (
    Record,
    data_record,
    device_record,
    differences,
    facts_of_rank,
    fingerprint,
    plugin_paths,
    unlike_ranks,
)
from dltrain.training.device import global_settings_restored, peak_memory_bytes
from dltrain.training.trainer import Trainer


def train(
    experiment: Experiment,
    *,
    run_dir: str | Path | None = None,
    quiet: bool = False,
    plugins: Sequence[str | Path] = (),
    loggers: Sequence[Logger] = (),
) -> Summary:
    """Trains an experiment in a new run directory.

    In a notebook it shows its progress and curves below the cell, on a terminal a bar and lines.

    Of several processes that torchrun started, each calls this, and the first writes. Where they
    were started again, they go on with the run that they had begun.

    Args:
        experiment: What `dltrain.load` gave.
        run_dir: Where; the next free number under `runs/NAME/` if not given.
        quiet: Whether to show nothing but errors.
        plugins: Files of the user's own components, for the record.
        recorders: Who hears of it beside the run's own, in the first process. One that raises
            PrunedError ends the run, whose status then is `pruned`.

    Raises:
        ConfigError: Something in the config can't work; no run directory was made.
        DataError: The data is missing or damaged; no run directory was made.
        RunError: The run failed; `summary.json` says so too.
        InterruptedRunError: A signal stopped it, after a checkpoint.
    """
    run_dir = None if run_dir is None else Path(run_dir)
    plugins = [Path(plugin) for plugin in plugins]
    return train_if(lambda _machine, _data: None, experiment, run_dir, quiet, plugins, loggers)


def train_if(
    accept: Callable[[Runtime, Data], None],
    experiment: Experiment,
    run_dir: Path | None,
    quiet: bool,
    plugins: Sequence[Path],
    loggers: Sequence[Logger] = (),
    folder: str | None = None,
) -> Summary:
    """See `train`; `accept` may refuse, by an error, what has been found, before anything else.

    `folder` is the data folder that another run has recorded.
    """
    with global_settings_restored(), join_process_group(experiment.train.timeout) as process_group:
        _require_alike_ranks(experiment, process_group)
        again = process_group.all_reduce_max(restarts()) > 0
        begun = process_group.broadcast_object(
            lambda: Run.find_existing(launch(), again, experiment.name, run_dir)
        )
        if begun is not None and process_group.broadcast_object(
            lambda: bool(begun.checkpoints().all())
        ):
            return _resume(begun, experiment, process_group, quiet=quiet, loggers=loggers)
        notices: list[str] = []
        started = time.perf_counter()
        runtime = build_runtime(experiment, process_group)
        data = _data(experiment, runtime, notices, quiet, folder)
        accept(runtime, data)
        has_data = time.perf_counter()
        task = build_task(experiment, data.spec, runtime)
        # What a trainer refuses, it refuses before there is a directory.
        refused = build_trainer(experiment, data, task, runtime, Run(Path()).checkpoints())
        require_no_single_sample_batch(experiment, refused)
        run = begun or process_group.broadcast_object(lambda: Run.create(experiment, run_dir))
        with disk_errors(run), ExitStack() as stack:
            stack.enter_context(run.locked() if process_group.is_main else nullcontext())
            if begun is not None and process_group.is_main:
                run.reset()
                run.write_config(experiment)
            described = data_record(experiment.data.name, data, notices)
            record = Record(
                config=experiment.to_dict(),
                code=[current_code(experiment, plugins)],
                data=described,
                device=device_of(runtime),
                plugins=[str(path) for path in plugins],
                data_folder=str(data_folder(folder)),
                timings={
                    "data_seconds": has_data - started,
                    "build_seconds": time.perf_counter() - has_data,
                },
            )
            if process_group.is_main:
                run.write_record(record)
            own = _recorders(stack, run, experiment, data, quiet, notices, runtime)
            everyone = [*own, *(loggers if process_group.is_main else ())]
            _tell(own, f"run directory: {run.directory}")
            checkpoints = run.checkpoints(experiment.checkpoint.keep)
            trainer = build_trainer(experiment, data, task, runtime, checkpoints, everyone)
            return _train_to_the_end(trainer, run, runtime, described)


def resume(
    run_dir: str | Path,
    *,
    quiet: bool = False,
    exact: bool = False,
    loggers: Sequence[Logger] = (),
) -> Summary:
    """Goes on from the newest good checkpoint of a run, bit for bit.

    Args:
        run_dir: The run.
        quiet: Whether to show nothing but errors.
        exact: Refuse to go on where versions, device or threads differ from those that the run
            started with, so that its bits might; else a line says so.
        recorders: See `train`.

    Raises:
        RunError: There is nothing to go on from, or the run failed again.
        InterruptedRunError: A signal stopped it, after a checkpoint.
    """
    run = Run.open(run_dir)
    experiment = run.experiment()
    with global_settings_restored(), join_process_group(experiment.train.timeout) as process_group:
        _require_alike_ranks(experiment, process_group)
        return _resume(run, experiment, process_group, quiet=quiet, exact=exact, loggers=loggers)


def _resume(
    run: Run,
    experiment: Experiment,
    process_group: ProcessGroup,
    *,
    quiet: bool,
    exact: bool = False,
    loggers: Sequence[Logger] = (),
) -> Summary:
    with disk_errors(run), ExitStack() as stack:
        stack.enter_context(run.locked() if process_group.is_main else nullcontext())
        ended = process_group.broadcast_object(run.summary)
        if ended is not None and ended.status == "done":
            record = process_group.broadcast_object(run.record)
            refuse_another_config(experiment, record)
            other_code = changed_code(experiment, record)
            _refuse_inexact(other_code if exact else [])
            for change in other_code:
                _say(
                    f"warning: {change}; results may differ", [], quiet or not process_group.is_main
                )
            return ended
        checkpoints = run.checkpoints(experiment.checkpoint.keep)
        if not process_group.broadcast_object(checkpoints.all):
            _newest(run, checkpoints, process_group)  # says so before the data is looked for
        record = process_group.broadcast_object(run.record)
        refuse_another_config(experiment, record, (*ROUNDING, *LENGTH))
        notices: list[str] = []
        runtime = build_runtime(experiment, process_group)
        data = _data(experiment, runtime, notices, quiet, record["data_folder"])
        described = data_record(experiment.data.name, data, notices)
        refuse_other_data(run, record["data"], described)
        edits = changed(record["config"], experiment.to_dict())
        changes = differences(record, device_of(runtime))
        changes += [str(edit) for edit in edits if edit.key not in LENGTH]
        other_code = changed_code(experiment, record)
        _refuse_inexact([*other_code, *changes] if exact else [])
        task = build_task(experiment, data.spec, runtime)
        size = num_bytes(task.model.state_dict())
        path, snapshot, passed_over = _newest(run, checkpoints, process_group, size)
        own = _recorders(stack, run, experiment, data, quiet, notices, runtime)
        everyone = [*own, *(loggers if process_group.is_main else ())]
        trainer = build_trainer(experiment, data, task, runtime, checkpoints, everyone)
        try:
            trainer.restore(snapshot)
            if process_group.is_main and path.name != f"step-{trainer.state.step:010d}":
                raise ValueError(f"its state is of step {trainer.state.step}")
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise RunError(incompatible_checkpoint(path, run, error)) from error
        for change in other_code:
            _tell(own, f"warning: {change}; results may differ")
        for change in changes:
            _tell(own, f"note: {change}; results may differ in their last bits")
        for edit in edits:
            if edit.key in LENGTH:
                _tell(own, f"note: {edit}")
        for text in (*passed_over, f"going on from {path}"):
            _tell(own, text)
        if process_group.is_main:
            if other_code:
                run.add_code(record, current_code(experiment, loaded_plugins(record)))
            run.mark_resumed()
        return _train_to_the_end(trainer, run, runtime, described)


def _newest(
    run: Run,
    checkpoints: CheckpointStore,
    process_group: ProcessGroup,
    model_bytes: int | None = None,
) -> tuple[Path, Snapshot, list[str]]:
    """See `CheckpointStore.newest`; of several processes, the first reads."""
    path, passed_over = Path(), []

    def newest() -> Snapshot:
        nonlocal path, passed_over
        try:
            path, snapshot, passed_over = checkpoints.newest(model_bytes)
        except DamagedCheckpointError as error:
            error.add_note(start_again(run))
            raise
        return snapshot

    snapshot = read_on_main(process_group, newest)
    return path, snapshot, passed_over


def _refuse_inexact(changes: Sequence[str]) -> None:
    if changes:
        raise RunError(f"can't go on bit for bit: {'; '.join(changes)}")


def _data(
    experiment: Experiment,
    runtime: Runtime,
    notices: list[str],
    quiet: bool,
    folder: str | None,
) -> Data:
    """The data; of several processes on a machine, the first may have to download it."""

    def say(text: str) -> None:
        _say(text, notices, quiet or not runtime.process_group.is_main)

    with runtime.process_group.local_rank_zero_first():
        data = build_data(experiment, runtime, say, folder)
    _refuse_unlike(runtime.process_group, {"the data's fingerprint": fingerprint(data)[:12]})
    return data


def _require_alike_ranks(experiment: Experiment, process_group: ProcessGroup) -> None:
    """Raises a RunError in every rank where their configs, packages or plug-ins differ."""
    if process_group.world_size > 1:
        config = values_of(experiment.to_dict(), PLACE)
        code = current_code(experiment, user_code.loaded_plugins())
        _refuse_unlike(process_group, facts_of_rank(config, code))


def _refuse_unlike(process_group: ProcessGroup, facts: dict[str, str]) -> None:
    """Raises a RunError in every rank, where what must be the same in all of them is not."""
    if lines := unlike_ranks(process_group.all_gather_object(facts)):
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise RunError(f"the ranks do not train the same: {'; '.join(lines[:5])}{more}")


def device_of(runtime: Runtime) -> dict[str, Any]:
    """See `device_record`."""
    return device_record(runtime.device, runtime.precision.name, runtime.process_group.world_size)


def refuse_another_config(
    experiment: Experiment, record: Mapping[str, Any], but: Sequence[str] = ()
) -> None:
    """Raises a ConfigError where the config is not the one that the run was started with.

    Args:
        experiment: The config now.
        record: See `Run.record`.
        but: Keys that may change, beside those that change no outcome.
    """
    way_on = "change it back, or train the changed config as a new run"
    refuse_changes(experiment, record["config"], (*HARMLESS, *but), way_on)


def refuse_other_data(run: Run, before: dict[str, Any], described: dict[str, Any]) -> None:
    """Raises a RunError where the data has another fingerprint than it had."""
    if before["fingerprint"] != described["fingerprint"]:
        raise RunError(
            f"the data is not what {run.directory} was trained on: it came from "
            f"{before['source']}, and now from {described['source']}"
        )


def _recorders(
    stack: ExitStack,
    run: Run,
    experiment: Experiment,
    data: Data,
    quiet: bool,
    notices: Sequence[str],
    runtime: Runtime,
) -> list[Logger]:
    if not runtime.process_group.is_main:
        return []
    # A path may have bytes that are no text here; they are written as they are.
    log = stack.enter_context(
        open(run.log_path, "a", encoding="utf-8", errors="surrogateescape", opener=regular)  # noqa: SIM115
    )
    for text in notices:  # the terminal has shown them already
        print(escape_control_characters(text), file=log)

    def example() -> Batch:
        if runtime.is_sharded:
            raise RuntimeError("each process has a part of its weights")
        return next(data.train.batches(1))

    shown = NotebookProgress(log) if in_kernel() and not quiet else Progress(log, quiet)
    loggers: list[Logger] = [shown, MetricsFile(run.metrics_path)]
    if experiment.recording.tensorboard:
        loggers.append(
            TensorBoard(
                run.tensorboard_path,
                experiment.to_yaml(),
                _hyperparameters(experiment),
                example,
                experiment.recording.histograms,
            )
        )
    for logger in loggers:
        stack.callback(logger.close)
    sync(run.directory)  # what a checkpoint counts on is there after a power cut
    return loggers


def _tell(loggers: Sequence[Logger], text: str) -> None:
    for logger in loggers[:1]:
        logger.log_message(text)


def _train_to_the_end(
    trainer: Trainer, run: Run, runtime: Runtime, described: dict[str, Any]
) -> Summary:
    def summary(status: Status, error: str | None = None) -> Summary:
        state, seconds = trainer.state, trainer.seconds
        # A process that failed can't ask the others for their parts.
        model = {} if runtime.is_sharded and status == "failed" else trainer.task.model.state_dict()
        best = state.best and {
            "metric": trainer.monitor,
            "value": state.best[0],
            "step": state.best[1],
        }
        result = Summary(
            run=str(run.directory),
            status=status,
            step=state.step,
            epoch=state.step / trainer.steps_per_epoch,
            seconds=seconds,
            samples_per_second=trainer.samples_after(state.step) / seconds,
            peak_memory_bytes=peak_memory_bytes(runtime.device),
            metrics=state.last,
            best=best,
            best_metrics=state.best_metrics,
            tested_weights=trainer.tested_weights,
            skipped_steps=state.skipped,
            stopped_early=trainer.stopped_early,
            data=described,
            weights_sha256=weights_sha256(gather_to_main(model, runtime.process_group.is_main)),
            error=error,
        )
        if runtime.process_group.is_main:
            run.write_summary(result)
        for logger in trainer.loggers:
            logger.on_fit_end(status)
        return result

    # A second signal ends the process at once, also while it writes how the first one ended it.
    with signals(trainer):
        try:
            with collector_spared(), _inputs_recorded(trainer, run, runtime):
                trainer.fit()
        except InterruptedRunError as error:
            summary("stopped")
            error.add_note(f"go on with: dltrain resume {run.directory}")
            raise
        except PrunedError:
            return summary("pruned")
        except Exception as error:  # a model may raise anything, and so may a disk
            failure = runtime.process_group.root_cause(in_words(error, trainer, runtime))
            with suppress(OSError):
                summary("failed", str(failure))
            if failure is error:
                raise
            raise failure from error
        return summary("done")


def _inputs_recorded(trainer: Trainer, run: Run, runtime: Runtime) -> AbstractContextManager[None]:
    """See `input_files.recorded`; of several processes, the first writes."""
    if not runtime.process_group.is_main:
        return nullcontext()
    start, plugins = trainer.state.step, plugin_paths(run.record())
    files = trainer.data.files
    return input_files.recorded(run.directory, files, plugins, lambda: trainer.state.step > start)


def _say(text: str, notices: list[str], quiet: bool) -> None:
    notices.append(text)
    if not quiet:
        with suppress(OSError):  # the reader has closed the stream; the log will have it
            print_warning(text)


def _hyperparameters(experiment: Experiment) -> dict[str, bool | int | float | str]:
    """Return the options that may change results, by dotted key; a list is one value."""
    options = values_of(experiment.to_dict(), ("name", "checkpoint", "recording", "metrics"))
    return {
        key: value
        if isinstance(value, bool | int | float | str)
        else json.dumps(value, ensure_ascii=False, default=str)
        for key, value in options.items()
        if value != {}
    }
