"""Worker processes that read batches of samples, watched by the training process."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.process import BaseProcess

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dltrain.core.errors import DataError, describe_error, shorten
from dltrain.data.shared_memory import require_shared_memory, shared_memory_error

ReadSample = Callable[[int], Tensor]
"""Function from a sample's index to the sample on the CPU; deterministic, and can be pickled."""

_POLL_SECONDS = 1.0  # interval between checks that the workers are alive
_SEND_SECONDS = 30.0  # maximum time for a batch to arrive after it was read
_PREFETCH_FACTOR = 2  # batches that each worker reads ahead
_BUS_ERROR = -7 if not hasattr(signal, "SIGBUS") else -signal.SIGBUS
_FINISHED = -1  # current sample of a worker that has read its whole batch


class WorkerReader:
    """Batches of samples, read in order by worker processes or by the training process.

    Args:
        read: Function that reads one sample.
        names: Name of each sample in error messages.
        batches: The sample indices of each batch, (batch,) int64.
        sample_bytes: Size of a sample in bytes.
        workers: Number of processes; 0 reads in the training process.
        timeout: Maximum time in seconds that the workers may take for a batch.
        pin_memory: Whether batches are returned in pinned memory.
        ignore_signals: Whether the workers ignore SIGINT and SIGTERM.

    Raises:
        DataError: Shared memory is too small for the workers.
    """

    def __init__(
        self,
        read: ReadSample,
        names: Sequence[object],
        batches: Sequence[Tensor],
        *,
        sample_bytes: int,
        workers: int,
        timeout: float,
        pin_memory: bool,
        ignore_signals: bool,
    ) -> None:
        self._names, self._batches = names, batches
        self._sample_bytes, self._workers, self._timeout = sample_bytes, workers, timeout
        self._next_number = 0
        self._progress = torch.full((max(1, workers), 3), -1)
        if workers and batches:
            # One more than is prefetched: the batch that is being copied to the device.
            at_once = min(len(batches), _PREFETCH_FACTOR * workers + 1)
            require_shared_memory(len(batches[0]) * sample_bytes, at_once)
            self._progress.share_memory_()
        loader = DataLoader(
            _BatchDataset(read, names, batches, self._progress),
            batch_size=None,  # an item is already a batch
            sampler=range(len(batches)),
            num_workers=workers,
            prefetch_factor=_PREFETCH_FACTOR if workers else None,
            worker_init_fn=partial(_initialize_worker, ignore_signals=ignore_signals),
            pin_memory=pin_memory,
            timeout=min(timeout, _POLL_SECONDS) if workers else 0,
            generator=torch.Generator(),  # otherwise it would draw from the run's generator
        )
        if workers and multiprocessing.get_start_method() == "forkserver":
            # The server imports torch once, instead of each worker in each epoch.
            multiprocessing.set_forkserver_preload(["__main__", __name__])
        self._iterator = start_iterator(loader) if batches else iter(())
        self._processes = multiprocessing.active_children()  # the workers are among them
        self._watchdog = _Watchdog(timeout, self._progress, self._processes if workers else ())

    def next_batch(self) -> Tensor:
        """Return the samples of the next batch, (batch, ...).

        Raises:
            DataError: A sample can't be read, or its worker died or did not respond.
        """
        number, self._next_number = self._next_number, self._next_number + 1
        batch = self._receive(number)
        if isinstance(batch, DataError):
            raise batch
        return batch

    def close(self) -> None:
        """End the workers, even if an error's traceback still refers to this object."""
        self._watchdog.close()
        self._iterator = iter(())

    def _receive(self, number: int) -> Tensor | DataError:
        """Wait for a batch; return an error if it does not arrive."""
        deadline = time.monotonic() + self._timeout
        arrives_by = deadline
        while True:
            try:
                with self._watchdog:
                    return next(self._iterator)
            except Exception as error:  # a worker's death raises various exceptions
                reason = str(error) or type(error).__name__
            # Outside the handler, whose exception would keep the iterator and so the workers alive.
            if self._watchdog.has_killed_workers:
                return self._missing_batch_error(number)
            if "timed out" not in reason:
                break
            now = time.monotonic()
            if not self._has_been_read(number):
                arrives_by = now + _SEND_SECONDS
            if now >= min(deadline, arrives_by):
                return self._missing_batch_error(number)
        dead = _dead_workers(self._progress, self._processes)
        samples = [sample for sample, _ in dead if sample >= 0]
        if _BUS_ERROR in [exit_code for _, exit_code in dead]:  # shared memory is full
            return shared_memory_error(self._sample_bytes, 1)
        name = self._names[[self._first_sample(number), *samples][-1]]
        if dead or "exited unexpectedly" in reason:
            return DataError(
                f"{name}: the worker process that was reading it died, possibly out of memory; "
                "reduce data.workers to use less"
            )
        return DataError(
            f"{name}: the worker process did not deliver its batch: {shorten(reason, 300)}"
        )

    def _first_sample(self, number: int) -> int:
        return int(self._batches[number][0])

    def _has_been_read(self, number: int) -> bool:
        """Return whether the worker of a batch (they take turns) has read all of its samples."""
        _, current, sample = self._progress[number % self._workers].tolist()
        return current >= number and sample == _FINISHED

    def _missing_batch_error(self, number: int) -> DataError:
        """Kill the workers, one of which may not respond, and describe the missing batch."""
        for child in multiprocessing.active_children():
            if child.pid in self._progress[:, 0].tolist():
                child.kill()
        if self._has_been_read(number):
            return DataError(
                "a worker process read a batch but could not send it, possibly for lack of shared "
                "memory or of open files (ulimit -n); set data.workers=0, which needs neither"
            )
        _, current, sample = self._progress[number % self._workers].tolist()
        name = self._names[sample if current >= number else self._first_sample(number)]
        return DataError(
            f"{name}: its worker process hangs: no batch in {self._timeout:g} s; "
            "increase data.timeout if reading takes longer"
        )


class _Watchdog:
    """Kills the workers if one of the training process's requests has no end.

    A worker hands over its batch on request, without a timeout: a worker that is suspended after
    it has announced the batch would block the run forever. Enter the context for each request.

    Args:
        seconds: Maximum duration of a request.
        progress: See `_BatchDataset`; the first column has the workers' process ids.
        processes: The workers, possibly among others.
    """

    def __init__(self, seconds: float, progress: Tensor, processes: Sequence[BaseProcess]) -> None:
        self.has_killed_workers = False
        self._seconds, self._progress, self._processes = seconds, progress, processes
        self._requests, self._is_waiting = 0, False
        self._closed = threading.Event()
        if processes:
            threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self) -> None:
        """Start a request."""
        self._requests += 1
        self._is_waiting = True

    def __exit__(self, *error: object) -> None:
        """End a request."""
        self._is_waiting = False

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        request, waited = 0, 0.0  # seconds during which this process ran: it may be suspended too
        while not self._closed.wait(_POLL_SECONDS):
            is_same = self._is_waiting and self._requests == request
            request, waited = self._requests, waited + _POLL_SECONDS if is_same else 0.0
            if waited >= self._seconds:
                self.has_killed_workers = True
                pids = self._progress[:, 0].tolist()
                for process in self._processes:
                    if process.pid in pids:
                        process.kill()
                return


def _dead_workers(progress: Tensor, processes: Sequence[BaseProcess]) -> list[tuple[int, int]]:
    """Return current sample and exit code of each dead worker; wait for one that is just dying."""
    deadline = time.monotonic() + _POLL_SECONDS
    while True:
        codes = {p.pid: p.exitcode for p in processes if p.exitcode is not None}
        dead = [(sample, codes[pid]) for pid, _, sample in progress.tolist() if pid in codes]
        if dead or time.monotonic() >= deadline:
            return dead
        time.sleep(0.01)


class _BatchDataset(Dataset[Tensor | DataError]):
    """Map-style dataset of batches. An error is returned as a value, to keep its own message.

    Args:
        read: Function that reads one sample.
        names: Name of each sample in error messages.
        batches: The sample indices of each batch.
        progress: (workers, 3) int64, in shared memory: for each worker its process id, and the
            batch and the sample that it is reading, or `_FINISHED`. It locates a worker that died
            or hangs.
    """

    def __init__(
        self, read: ReadSample, names: Sequence[object], batches: Sequence[Tensor], progress: Tensor
    ) -> None:
        self.read = read
        self.names = names
        self.batches = batches
        self.progress = progress

    def __getitem__(self, number: int) -> Tensor | DataError:
        worker = get_worker_info()
        state = self.progress[0 if worker is None else worker.id].numpy()
        samples = []
        for sample in self.batches[number].tolist():
            state[:] = os.getpid(), number, sample
            try:
                samples.append(self.read(sample))
            except DataError as error:
                return error
            except Exception as error:  # whatever it is, the sample is the place to look
                reason = shorten(describe_error(error), 300)
                return DataError(f"{self.names[sample]}: reading it failed: {reason}")
        batch = torch.stack(samples)
        if worker is not None:
            try:  # here, because an error in torch's sending thread would not be reported
                batch.share_memory_()
            except RuntimeError as error:
                return _sharing_error(error, batch)
        state[2] = _FINISHED
        return batch


def _sharing_error(error: RuntimeError, batch: Tensor) -> DataError:
    if "No space left" in str(error) or "Cannot allocate" in str(error):
        return shared_memory_error(batch.nbytes, 1)
    return DataError(f"a worker process can't send a batch: {shorten(str(error), 300)}")


def _initialize_worker(_worker: int, ignore_signals: bool) -> None:
    """Make a worker exit as soon as the training process is gone for any reason.

    Torch's workers check that their parent process lives. If that is a fork server, it lives as
    long as its children do, and neither would end after the training process was killed.

    Args:
        ignore_signals: Whether the worker ignores SIGINT and SIGTERM. A launcher signals whole
            process groups, and the training process ends its workers itself when it stops.
    """
    if ignore_signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def start_iterator(loader: DataLoader[Tensor | DataError]) -> Iterator[Tensor | DataError]:
    """Start the workers without torch's SIGCHLD handler.

    That handler raises an error wherever the training process is when a worker dies; `WorkerReader`
    notices the death when it waits for the batch.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    iterator = iter(loader)
    signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return iterator
