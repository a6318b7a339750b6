"""What surrounds training: signals, garbage collection, and descriptions of errors."""

from __future__ import annotations

import gc
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from dltrain.config.settings import TrainSettings
from dltrain.core.errors import DltrainError, RunError, describe_error
from dltrain.rundir.directory import Run
from dltrain.training.device import is_out_of_memory
from dltrain.training.runtime import Runtime
from dltrain.training.trainer import Trainer


def describe_failure(error: Exception, trainer: Trainer, runtime: Runtime) -> Exception:
    """Return an error of training as a RunError that says at which step it happened.

    Errors of dltrain, of a disk (see `disk_errors`) and of another rank are returned unchanged.
    """
    if isinstance(error, DltrainError | OSError) or runtime.process_group.is_peer_failure(error):
        return error
    step = trainer.state.step
    evaluates = trainer.state.evaluation_due or trainer.finished
    place = f"the evaluation after step {step}" if evaluates else f"step {step + 1}"
    if is_out_of_memory(error):
        hint = _smaller_batches(trainer.settings, evaluates, runtime.process_group.world_size)
        return RunError(f"{place}: out of memory on {runtime.device}; {hint}")
    return RunError(f"{place} fails: {describe_error(error)}")


def _smaller_batches(settings: TrainSettings, evaluates: bool, world_size: int) -> str:
    """Return what to try after running out of memory, other than what the config has already."""
    if evaluates:
        size, key = settings.samples_at_once, "train.evaluate_batch_size"
    else:
        size, key = settings.batch_size, "train.micro_batch"
        if settings.micro_batch == "auto":  # it has been halved already
            return "make the model or its inputs smaller"
        if settings.micro_batch is None and world_size == 1:
            return "try train.micro_batch=auto"
        size = min(size, settings.micro_batch or size)
    if size == 1:
        return "make the model or its inputs smaller"
    return f"try a {key} below {size}, such as {key}={size // 2}"


@contextmanager
def disk_errors(run: Run) -> Iterator[None]:
    """Turn an OSError into a RunError that says how to continue.

    A full disk can refuse any write, also those of loggers as they close.
    """
    try:
        yield
    except OSError as error:
        message = f"{error.filename or run.directory}: {error.strerror or error}"
        if run.checkpoints().all():
            hint = "earlier checkpoints are untouched, resume with: "
            hint += f"dltrain resume {run.directory}"
        else:
            hint = f"nothing was saved yet, {restart_hint(run)}"
        raise RunError(f"{message}; {hint}") from error


def restart_hint(run: Run) -> str:
    """Return the command that restarts a run without a checkpoint."""
    command = ["dltrain train", shlex.quote(str(run.config_path)), run.plugin_options()]
    return f"restart with: {' '.join(filter(None, command))}"


@contextmanager
def spared_from_gc() -> Iterator[None]:
    """Keep Python's garbage collector from visiting the objects that exist already.

    Visiting all that has been imported and built takes as long as a hundred steps of a small
    network, again and again.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def handle_signals(trainer: Trainer) -> Iterator[None]:
    """Let SIGINT and SIGTERM ask the trainer to stop; the second one ends the process at once."""

    def handle(number: int, _frame: object) -> None:
        if trainer.stop_signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        trainer.stop_signal = number

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.signal(number, handle) for number in numbers}
    except ValueError:  # not the main thread: signals belong to the caller
        yield
        return
    try:
        yield
    finally:
        # A launcher that sees one process end signals the others, which may still have to report
        # how they were interrupted first.
        if trainer.process_group.world_size == 1:
            for number, handler in before.items():
                signal.signal(number, handler)
