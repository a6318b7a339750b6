"""What training a run consists of, whether it is new, resumed or reproduced."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from dltrain.build import build_data, build_runtime
from dltrain.checkpoints.atomic_files import regular, sync
from dltrain.checkpoints.snapshot import weights_sha256
from dltrain.commands.guards import describe_failure, handle_signals, spared_from_gc
from dltrain.config import PLACE, Experiment, user_code, values_of
from dltrain.core.batch import Batch
from dltrain.core.errors import (
    InterruptedRunError,
    PrunedError,
    RunError,
    escape_control_characters,
    print_warning,
)
from dltrain.core.protocols import Data, ProcessGroup
from dltrain.distributed.fsdp import gather_to_main
from dltrain.distributed.process_group import join_process_group
from dltrain.loggers import Logger, MetricsFile, Progress, TensorBoard
from dltrain.reporting.notebook import NotebookProgress, in_kernel
from dltrain.rundir import input_files
from dltrain.rundir.changes import current_code
from dltrain.rundir.directory import Run
from dltrain.rundir.provenance import (
    data_record,
    device_record,
    facts_of_rank,
    fingerprint,
    plugin_paths,
    unlike_ranks,
)
from dltrain.rundir.summary import Status, Summary
from dltrain.training.device import global_settings_restored, peak_memory_bytes
from dltrain.training.runtime import Runtime
from dltrain.training.trainer import Trainer


@dataclass(frozen=True)
class TrainingInputs:
    """Runtime and data of a run that is about to train.

    Attributes:
        name: Name of the data source.
        runtime: Device, precision and process group.
        data: The splits.
        notices: Lines that the data source has reported.
        seconds: Time that finding the device and reading the data took.
    """

    name: str
    runtime: Runtime
    data: Data
    notices: list[str]
    seconds: float

    def data_record(self) -> dict[str, Any]:
        """See `provenance.data_record`."""
        return data_record(self.name, self.data, self.notices)

    def device_record(self) -> dict[str, Any]:
        """See `provenance.device_record`."""
        runtime = self.runtime
        return device_record(
            runtime.device, runtime.precision.name, runtime.process_group.world_size
        )


@contextmanager
def training_process_group(experiment: Experiment) -> Iterator[ProcessGroup]:
    """Join the ranks that train an experiment; restore torch's global settings on exit.

    Raises:
        RunError: Configs, packages or plug-ins differ between ranks.
    """
    with global_settings_restored(), join_process_group(experiment.train.timeout) as process_group:
        if process_group.world_size > 1:
            config = values_of(experiment.to_dict(), PLACE)
            code = current_code(experiment, user_code.loaded_plugins())
            _refuse_unlike(process_group, facts_of_rank(config, code))
        yield process_group


def read_training_inputs(
    experiment: Experiment,
    process_group: ProcessGroup,
    *,
    quiet: bool,
    recorded_folder: str | None = None,
) -> TrainingInputs:
    """Find the device and read the data; the first rank of each machine may have to download it.

    Args:
        experiment: The experiment.
        process_group: Ranks that train together.
        quiet: Whether to print nothing.
        recorded_folder: Common data folder that a run has recorded; see `core.paths.data_folder`.

    Raises:
        ConfigError: See `build_runtime` and `build_data`.
        DataError: The data is missing or damaged.
        RunError: Ranks have read different data.
    """
    started, notices = time.perf_counter(), []
    runtime = build_runtime(experiment, process_group)

    def warn(text: str) -> None:
        notices.append(text)
        if process_group.is_main:
            print_unless_quiet(text, quiet)

    with process_group.local_rank_zero_first():
        data = build_data(experiment, runtime, warn, recorded_folder)
    _refuse_unlike(process_group, {"the data's fingerprint": fingerprint(data)[:12]})
    seconds = time.perf_counter() - started
    return TrainingInputs(experiment.data.name, runtime, data, notices, seconds)


def _refuse_unlike(process_group: ProcessGroup, facts: Mapping[str, str]) -> None:
    """Raise a RunError on every rank where facts that must be the same differ between ranks."""
    if lines := unlike_ranks(process_group.all_gather_object(facts)):
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise RunError(f"the ranks do not train the same: {'; '.join(lines[:5])}{more}")


def print_unless_quiet(text: str, quiet: bool) -> None:
    """Print a line to standard error; the log has it even if nobody reads the stream any more."""
    if not quiet:
        with suppress(OSError):
            print_warning(text)


def open_loggers(
    stack: ExitStack, run: Run, experiment: Experiment, inputs: TrainingInputs, quiet: bool
) -> list[Logger]:
    """Open the run's own loggers, on the first rank only; the first of them writes the log.

    Args:
        stack: Closes them.
        run: The run.
        experiment: Its experiment.
        inputs: Runtime and data.
        quiet: Whether to show no progress.
    """
    if not inputs.runtime.process_group.is_main:
        return []
    # A path may have bytes that are no text here; they are written unchanged.
    log = stack.enter_context(
        open(run.log_path, "a", encoding="utf-8", errors="surrogateescape", opener=regular)  # noqa: SIM115
    )
    for text in inputs.notices:  # the terminal has shown them already
        print(escape_control_characters(text), file=log)

    def example() -> Batch:
        if inputs.runtime.is_sharded:
            raise RuntimeError("each process has a part of its weights")
        return next(inputs.data.train.batches(1))

    progress = NotebookProgress(log) if in_kernel() and not quiet else Progress(log, quiet)
    loggers: list[Logger] = [progress, MetricsFile(run.metrics_path)]
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
    sync(run.directory)  # so that the files which checkpoints rely on survive a power cut
    return loggers


def log_message(loggers: Sequence[Logger], text: str) -> None:
    """Show a line and write it to the log."""
    for logger in loggers[:1]:
        logger.log_message(text)


def fit(trainer: Trainer, run: Run, runtime: Runtime, data: Mapping[str, Any]) -> Summary:
    """Train to the end and write `summary.json`, also where training fails or is interrupted.

    Args:
        trainer: The trainer, new or restored.
        run: The run, locked by this process.
        runtime: Device, precision and process group.
        data: `data_record` of the run's data.

    Raises:
        RunError: The run failed.
        InterruptedRunError: A signal interrupted it, after a checkpoint.
    """

    def summarize(status: Status, error: str | None = None) -> Summary:
        summary = _summary(trainer, run, runtime, data, status, error)
        if runtime.process_group.is_main:
            run.write_summary(summary)
        for logger in trainer.loggers:
            logger.on_fit_end(status)
        return summary

    # A second signal ends the process at once, also while it writes how the first one ended it.
    with handle_signals(trainer):
        try:
            with spared_from_gc(), _inputs_recorded(trainer, run, runtime):
                trainer.fit()
        except InterruptedRunError as error:
            summarize("stopped")
            error.add_note(f"resume with: dltrain resume {run.directory}")
            raise
        except PrunedError:
            return summarize("pruned")
        except Exception as error:  # a model may raise anything, and so may a disk
            failure = runtime.process_group.root_cause(describe_failure(error, trainer, runtime))
            with suppress(OSError):
                summarize("failed", str(failure))
            if failure is error:
                raise
            raise failure from error
        return summarize("done")


def _summary(
    trainer: Trainer,
    run: Run,
    runtime: Runtime,
    data: Mapping[str, Any],
    status: Status,
    error: str | None,
) -> Summary:
    state, seconds = trainer.state, trainer.seconds
    # A rank that failed can't ask the others for their shards.
    model = {} if runtime.is_sharded and status == "failed" else trainer.task.model.state_dict()
    best = state.best and {
        "metric": trainer.monitor.best,
        "value": state.best[0],
        "step": state.best[1],
    }
    return Summary(
        run=str(run.directory),
        status=status,
        step=state.step,
        epoch=state.step / trainer.steps_per_epoch,
        seconds=seconds,
        samples_per_second=trainer.throughput.samples_after(state.step) / seconds,
        peak_memory_bytes=peak_memory_bytes(runtime.device),
        metrics=state.last,
        best=best,
        best_metrics=state.best_metrics,
        tested_weights=trainer.tested_weights,
        skipped_steps=state.skipped,
        stopped_early=trainer.stopped_early,
        data=dict(data),
        weights_sha256=weights_sha256(gather_to_main(model, runtime.process_group.is_main)),
        error=error,
    )


def _inputs_recorded(trainer: Trainer, run: Run, runtime: Runtime) -> AbstractContextManager[None]:
    """See `input_files.recorded`; only the first rank writes."""
    if not runtime.process_group.is_main:
        return nullcontext()
    start, plugins = trainer.state.step, plugin_paths(run.record())
    files = trainer.data.files
    return input_files.recorded(run.directory, files, plugins, lambda: trainer.state.step > start)


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
