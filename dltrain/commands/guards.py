"""What holds around training: signals, the collector of cycles, and errors put in words."""

from __future__ import annotations

import gc
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from dltrain.build import Runtime
from dltrain.config.settings import TrainSettings
from dltrain.core.errors import DltrainError, RunError, describe_error
from dltrain.rundir.directory import Run
from dltrain.training.device import is_out_of_memory
from dltrain.training.trainer import Trainer


def in_words(error: Exception, trainer: Trainer, runtime: Runtime) -> Exception:
    """What training failed of, as an error of the run; a disk's is put in words further out."""
    if isinstance(error, DltrainError | OSError) or runtime.process_group.is_peer_failure(error):
        return error
    step = trainer.state.step
    evaluates = trainer.state.evaluation_due or trainer.finished
    place = f"the evaluation after step {step}" if evaluates else f"step {step + 1}"
    if is_out_of_memory(error):
        hint = _smaller_batches(trainer.settings, evaluates, runtime.process_group.world_size)
        return RunError(f"{place}: out of memory on {runtime.device}; {hint}")
    return RunError(f"{place} fails: {describe_error(error)}")


def _smaller_batches(settings: TrainSettings, evaluates: bool, processes: int) -> str:
    """What is left to try where the memory is full; nothing that is set already."""
    if evaluates:
        size, key = settings.samples_at_once, "train.evaluate_batch_size"
    else:
        size, key = settings.batch_size, "train.micro_batch"
        if settings.micro_batch == "auto":  # it has been halved already
            return "make the model or its inputs smaller"
        if settings.micro_batch is None and processes == 1:
            return "try train.micro_batch=auto"
        size = min(size, settings.micro_batch or size)
    if size == 1:
        return "make the model or its inputs smaller"
    return f"try a {key} below {size}, such as {key}={size // 2}"


@contextmanager
def disk_errors(run: Run) -> Iterator[None]:
    """A full disk can refuse any write, also those of recorders as they close."""
    try:
        yield
    except OSError as error:
        message = f"{error.filename or run.directory}: {error.strerror or error}"
        if run.checkpoints().all():
            way_on = "earlier checkpoints are untouched, go on with: "
            way_on += f"dltrain resume {run.directory}"
        else:
            way_on = f"nothing was saved yet, {start_again(run)}"
        raise RunError(f"{message}; {way_on}") from error


def start_again(run: Run) -> str:
    """The command for a run of which nothing was saved."""
    words = ["dltrain train", shlex.quote(str(run.config_path)), run.plugin_options()]
    return f"start again with: {' '.join(filter(None, words))}"


@contextmanager
def collector_spared() -> Iterator[None]:
    """Python's collector of cycles passes over all that has been imported and built before.

    Going through it takes a hundred steps of a small network, again and again.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def signals(trainer: Trainer) -> Iterator[None]:
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
        # A launcher that sees one process end asks the others to: they may say how it was first.
        if trainer.process_group.world_size == 1:
            for number, handler in before.items():
                signal.signal(number, handler)
