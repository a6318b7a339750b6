"""Train, and go on training."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from dltrain.build import (
    Machine,
    build_data,
    build_machine,
    build_task,
    build_trainer,
    misfit,
)
from dltrain.checkpoint import weights_sha256
from dltrain.config import Experiment
from dltrain.device import is_out_of_memory, peak_memory_bytes
from dltrain.errors import DltrainError, RunError, StoppedError, told_by
from dltrain.files import sync
from dltrain.recording import MetricsFile, Progress, Recorder, TensorBoard
from dltrain.run import Record, Run, Summary, data_record, device_record, differences
from dltrain.spec import Data
from dltrain.trainer import Trainer


def train(
    experiment: Experiment,
    *,
    run_dir: Path | None = None,
    quiet: bool = False,
    plugins: Sequence[Path] = (),
) -> Summary:
    """Trains an experiment in a new run directory.

    Args:
        experiment: What `dltrain.load` gave.
        run_dir: Where; the next free number under `runs/NAME/` if not given.
        quiet: Whether to show nothing but errors.
        plugins: Files of the user's own components, for the record.

    Raises:
        ConfigError: Something in the config can't work; no run directory was made.
        DataError: The data is missing or damaged; no run directory was made.
        RunError: The run failed; `summary.json` says so too.
        StoppedError: A signal stopped it, after a checkpoint.
    """
    notices: list[str] = []
    started = time.perf_counter()
    machine = build_machine(experiment)
    data = build_data(experiment, machine, lambda text: _say(text, notices, quiet))
    has_data = time.perf_counter()
    task = build_task(experiment, data.spec, machine)
    # What a trainer refuses, it refuses before there is a directory.
    build_trainer(experiment, data, task, machine, Run(Path()).checkpoints())
    run = Run.create(experiment, run_dir)
    with _disk_errors(run), ExitStack() as stack:
        stack.enter_context(run.locked())
        described = data_record(experiment.data.name, data, notices)
        run.write_record(
            Record(
                data=described,
                device=device_record(machine.device, machine.numerics.name),
                plugins=[str(path) for path in plugins],
                timings={
                    "data_seconds": has_data - started,
                    "build_seconds": time.perf_counter() - has_data,
                },
            )
        )
        recorders = _recorders(stack, run, experiment, data, quiet, notices)
        recorders[0].line(f"run directory: {run.directory}")
        checkpoints = run.checkpoints(experiment.checkpoint.keep)
        trainer = build_trainer(experiment, data, task, machine, checkpoints, recorders)
        return _train_to_the_end(trainer, run, machine, described)


def resume(run_dir: Path, *, quiet: bool = False, exact: bool = False) -> Summary:
    """Goes on from the newest good checkpoint of a run, bit for bit.

    Args:
        run_dir: The run.
        quiet: Whether to show nothing but errors.
        exact: Refuse to go on where versions, device or threads differ from those that the run
            started with, so that its bits might; else a line says so.

    Raises:
        RunError: There is nothing to go on from, or the run failed again.
        StoppedError: A signal stopped it, after a checkpoint.
    """
    run = Run.open(run_dir)
    with _disk_errors(run), ExitStack() as stack:
        stack.enter_context(run.locked())
        ended = run.summary()
        if ended is not None and ended.status == "done":
            return ended
        experiment = run.experiment()
        checkpoints = run.checkpoints(experiment.checkpoint.keep)
        try:
            path, snapshot, passed_over = checkpoints.newest()
        except RunError as error:
            error.add_note(_start_again(run))
            raise
        notices: list[str] = []
        machine = build_machine(experiment)
        data = build_data(experiment, machine, lambda text: _say(text, notices, quiet))
        described = data_record(experiment.data.name, data, notices)
        _refuse_other_data(run, described)
        changes = differences(run.record(), device_record(machine.device, machine.numerics.name))
        if changes and exact:
            raise RunError(f"can't go on bit for bit: {'; '.join(changes)}")
        task = build_task(experiment, data.spec, machine)
        recorders = _recorders(stack, run, experiment, data, quiet, notices)
        trainer = build_trainer(experiment, data, task, machine, checkpoints, recorders)
        try:
            trainer.restore(snapshot)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise RunError(misfit(path, run, error)) from error
        for change in changes:
            recorders[0].line(f"note: {change}; results may differ in their last bits")
        for text in (*passed_over, f"going on from {path}"):
            recorders[0].line(text)
        return _train_to_the_end(trainer, run, machine, described)


def _refuse_other_data(run: Run, described: dict[str, Any]) -> None:
    before = run.record()["data"]
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
) -> list[Recorder]:
    # A path may have bytes that are no text here; they are written as they are.
    log = run.log_path.open("a", encoding="utf-8", errors="surrogateescape")
    stack.enter_context(log)
    for text in notices:  # the terminal has shown them already
        print(text, file=log)
    recorders: list[Recorder] = [Progress(log, quiet), MetricsFile(run.metrics_path)]
    if experiment.recording.tensorboard:
        recorders.append(
            TensorBoard(
                run.tensorboard_path,
                experiment.to_yaml(),
                _hyperparameters(experiment),
                lambda: next(data.train.batches(1)).inputs,
                experiment.recording.histograms,
            )
        )
    for recorder in recorders:
        stack.callback(recorder.close)
    sync(run.directory)  # what a checkpoint counts on is there after a power cut
    return recorders


def _train_to_the_end(
    trainer: Trainer, run: Run, machine: Machine, described: dict[str, Any]
) -> Summary:
    def summary(status: Literal["done", "stopped", "failed"], error: str | None = None) -> Summary:
        state, seconds = trainer.state, trainer.seconds
        samples = state.step / trainer.steps_per_epoch * trainer.samples_per_epoch
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
            samples_per_second=samples / seconds,
            peak_memory_bytes=peak_memory_bytes(machine.device),
            metrics=state.last,
            best=best,
            tested_weights=trainer.tested_weights,
            skipped_steps=state.skipped,
            data=described,
            weights_sha256=weights_sha256(trainer.task.model.state_dict()),
            error=error,
        )
        run.write_summary(result)
        return result

    try:
        with _signals(trainer):
            trainer.fit()
    except StoppedError as error:
        summary("stopped")
        error.add_note(f"go on with: dltrain resume {run.directory}")
        raise
    except DltrainError as error:
        summary("failed", str(error))
        raise
    except Exception as error:  # a model may raise anything, and so may a disk
        with suppress(OSError):
            summary("failed", str(error))
        if isinstance(error, OSError):
            raise
        if is_out_of_memory(error):
            raise RunError(
                f"step {trainer.state.step + 1}: the memory of {machine.device} is full; try "
                "train.micro_batch=auto, or a smaller train.evaluate_batch_size"
            ) from error
        step = trainer.state.step + 1
        raise RunError(f"step {step} fails: {told_by(error)}") from error
    return summary("done")


@contextmanager
def _disk_errors(run: Run) -> Iterator[None]:
    """A full disk can refuse any write, also those of recorders as they close."""
    try:
        yield
    except OSError as error:
        message = f"{error.filename or run.directory}: {error.strerror or error}"
        if run.checkpoints().all():
            way_on = "earlier checkpoints are untouched, go on with: "
            way_on += f"dltrain resume {run.directory}"
        else:
            way_on = f"nothing was saved yet, {_start_again(run)}"
        raise RunError(f"{message}; {way_on}") from error


def _start_again(run: Run) -> str:
    words = ["dltrain train", shlex.quote(str(run.config_path)), run.plugin_options()]
    return f"start again with: {' '.join(filter(None, words))}"


@contextmanager
def _signals(trainer: Trainer) -> Iterator[None]:
    """SIGINT and SIGTERM ask the trainer to stop; the second one ends the process at once."""

    def handle(number: int, _frame: object) -> None:
        if trainer.stop_signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        trainer.stop_signal = number

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.signal(number, handle) for number in numbers}
    except ValueError:  # not the main thread: whoever called has the signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str, notices: list[str], quiet: bool) -> None:
    notices.append(text)
    if not quiet:
        with suppress(OSError):  # nobody takes it; the log will have it
            print(text, file=sys.stderr)


def _hyperparameters(experiment: Experiment) -> dict[str, bool | int | float | str]:
    """What may change an outcome, flat."""
    resolved = experiment.to_dict()
    return _flat(
        {k: v for k, v in resolved.items() if k not in ("name", "checkpoint", "recording")}
    )


def _flat(tree: Any, prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested mappings and lists to `a.b.0`: value, as the HParams table wants them."""
    if isinstance(tree, dict):
        items: Any = tree.items()
    elif isinstance(tree, list | tuple):
        items = enumerate(tree)
    else:
        return {prefix: tree if isinstance(tree, bool | int | float) else str(tree)}
    flat = {}
    for key, value in items:
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
