"""Data that does not fit: batches are read by worker processes while the device computes."""

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

from dltrain.core.batch import FULL_BATCH, Batch, RankSlice
from dltrain.core.errors import DataError, describe_error, shorten
from dltrain.data.cache import MemoryCache
from dltrain.data.in_memory import Transform, without_waiting
from dltrain.data.seeding import epoch_order
from dltrain.data.shared_memory import require_shared_memory, shared_memory_error

Read = Callable[[int], Tensor]
"""A sample's number to the sample, on the CPU; deterministic, and can be pickled."""

_LOOK_SECONDS = 1.0  # how often it is looked whether the workers live
_SEND_SECONDS = 30.0  # how long a batch that was read may take to arrive
_PREFETCHED = 2  # batches that each worker reads ahead
_BUS_ERROR = -7 if not hasattr(signal, "SIGBUS") else -signal.SIGBUS
_ALL_READ = -1  # the sample that a worker is at, once it has read the whole batch


class Streaming:
    """A split whose samples are read when they are wanted; see `spec.Split`.

    The batches are the same for any number of workers.
    """

    def __init__(
        self,
        read: Read,
        targets: Tensor,
        *,
        names: Sequence[object],
        sample_bytes: int,
        seed: int,
        workers: int,
        timeout: float,
        transform: Transform | None = None,
        cache: MemoryCache | None = None,
    ) -> None:
        """Args:
        read: Reads a sample.
        targets: (samples,) int64 or (samples, values) float, on the device.
        names: What each sample is called in errors, such as its file.
        sample_bytes: Size of a sample, which decides whether shared memory has room for batches.
        seed: Decides the order of each epoch.
        workers: Processes that read; 0 reads in the training process.
        timeout: Seconds that a batch of the workers may take.
        transform: Makes a batch of samples into inputs, on the device.
        cache: Keeps what was read; batches that it has whole are not read again.
        """
        self.read = read
        self.targets = targets
        self.names = names
        self.sample_bytes = sample_bytes
        self.seed = seed
        self.workers = workers
        self.timeout = timeout
        self.transform = transform
        self.cache = cache

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.targets)

    def batches(
        self,
        batch_size: int,
        *,
        epoch: int | None = None,
        offset: int = 0,
        rank_slice: RankSlice = FULL_BATCH,
    ) -> Iterator[Batch]:
        """See `spec.Split.batches`; the workers end with the iteration, however it ends.

        Raises:
            DataError: A sample can't be read, its worker died or did not answer, or shared memory
                is too small for the workers.
        """
        total, device = len(self), self.targets.device
        order = torch.arange(total) if epoch is None else epoch_order(total, self.seed, epoch)
        whole = order.split(batch_size)
        cuts = tuple(samples[rank_slice.bounds(len(samples))] for samples in whole)
        on_device = without_waiting(order, device).split(batch_size)
        wanted = [n for n in range(offset, len(cuts)) if self._lacks(cuts[n])]
        reading = torch.full((max(1, self.workers), 3), -1)
        if self.workers and wanted:
            # besides those that are read ahead there is the one that the device gets
            at_once = min(len(wanted), _PREFETCHED * self.workers + 1)
            require_shared_memory(len(cuts[wanted[0]]) * self.sample_bytes, at_once)
            reading.share_memory_()
        loader = DataLoader(
            _Batches(self.read, self.names, [cuts[number] for number in wanted], reading),
            batch_size=None,  # an item is a batch already
            sampler=range(len(wanted)),
            num_workers=self.workers,
            prefetch_factor=_PREFETCHED if self.workers else None,
            worker_init_fn=partial(_of_a_run, deaf=rank_slice.world_size > 1),
            pin_memory=device.type == "cuda",
            timeout=min(self.timeout, _LOOK_SECONDS) if self.workers else 0,
            generator=torch.Generator(),  # or it would draw from the run's generator
        )
        copy = _copier(device)
        arriving = _started(loader) if wanted else iter(())
        processes = multiprocessing.active_children()  # the workers among them
        watchdog = _Watchdog(self.timeout, reading, processes if self.workers else ())
        places = dict(zip(wanted, range(len(wanted)), strict=True))
        try:
            for number in range(offset, len(cuts)):
                index = on_device[number][rank_slice.bounds(len(whole[number]))]
                if number in places:
                    place = places[number]
                    first = int(cuts[number][0])
                    samples = self._next(arriving, place, first, reading, processes, watchdog)
                    if isinstance(samples, DataError):
                        raise samples
                    inputs = copy(samples)
                    if self.cache is not None:
                        self.cache.store(cuts[number], inputs)
                else:
                    assert self.cache is not None
                    inputs = self.cache.take(index)
                if self.transform is not None:
                    inputs = self.transform(inputs, index, epoch)
                targets = self.targets.index_select(0, index)
                yield rank_slice.make_batch(inputs, targets, index, len(whole[number]))
        finally:
            watchdog.end()
            del arriving  # the workers end with it, even while an error holds this frame

    def _lacks(self, index: Tensor) -> bool:
        return self.cache is None or self.cache.lacks(index)

    def _next(
        self,
        arriving: Iterator[Tensor | DataError],
        number: int,
        first: int,
        reading: Tensor,
        processes: Sequence[BaseProcess],
        watchdog: _Watchdog,
    ) -> Tensor | DataError:
        """The item of that number, which begins with that sample; an error if it does not come."""
        deadline = time.monotonic() + self.timeout
        arrives_by = deadline
        while True:
            try:
                with watchdog:
                    return next(arriving)
            except Exception as error:  # a worker's end shows itself in many ways
                told = str(error) or type(error).__name__
            # behind the handler, whose error would hold the iterator and with it the workers
            if watchdog.has_ended_workers:
                return self._missing(number, first, reading)
            if "timed out" not in told:
                break
            now = time.monotonic()
            if not self._was_read(number, reading):
                arrives_by = now + _SEND_SECONDS
            if now >= min(deadline, arrives_by):
                return self._missing(number, first, reading)
        dead = _dead(reading, processes)
        places = [sample for sample, _ in dead if sample >= 0]
        if _BUS_ERROR in [exit_code for _, exit_code in dead]:  # a page that has no room
            return shared_memory_error(self.sample_bytes, 1)
        name = self.names[[first, *places][-1]]
        if dead or "exited unexpectedly" in told:
            return DataError(
                f"{name}: the worker process that was reading it died, perhaps for lack of "
                "memory; fewer data.workers need less"
            )
        return DataError(f"{name}: its batch can't be had of the worker: {shorten(told, 300)}")

    def _was_read(self, number: int, reading: Tensor) -> bool:
        """Whether the worker of that batch, which takes turns, has nothing left to read."""
        _, at, sample = reading[number % self.workers].tolist()
        return at >= number and sample == _ALL_READ

    def _missing(self, number: int, first: int, reading: Tensor) -> DataError:
        """Ends the workers, one of which may heed no request, and says what became of a batch."""
        for child in multiprocessing.active_children():
            if child.pid in reading[:, 0].tolist():
                child.kill()
        if self._was_read(number, reading):
            return DataError(
                "a worker process read a batch and could not send it, perhaps for lack of shared "
                "memory or of open files (ulimit -n); data.workers=0 needs neither"
            )
        _, at, sample = reading[number % self.workers].tolist()
        return DataError(
            f"{self.names[sample if at >= number else first]}: its worker process hangs: no batch "
            f"in {self.timeout:g} s; data.timeout is how long to wait"
        )


class _Watchdog:
    """Ends the workers where the training process waits for one of them without a deadline.

    A batch is handed over by its worker, on a request that knows no timeout: a worker that has been
    stopped since it sent the batch would hold the run for ever. The context is entered around each
    request.

    Args:
        seconds: How long one request may take.
        reading: See `_Batches`; its first column has the workers' process ids.
        processes: The workers, among others.
    """

    def __init__(self, seconds: float, reading: Tensor, processes: Sequence[BaseProcess]) -> None:
        self.has_ended_workers = False
        self._seconds, self._reading, self._processes = seconds, reading, processes
        self._requests, self._is_waiting = 0, False
        self._ended = threading.Event()
        if processes:
            threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self) -> None:
        """Begins a request."""
        self._requests += 1
        self._is_waiting = True

    def __exit__(self, *error: object) -> None:
        """Ends it."""
        self._is_waiting = False

    def end(self) -> None:
        """Ends the watch."""
        self._ended.set()

    def _watch(self) -> None:
        request, waited = 0, 0.0  # seconds that this process has run: it may be stopped, too
        while not self._ended.wait(_LOOK_SECONDS):
            is_same = self._is_waiting and self._requests == request
            request, waited = self._requests, waited + _LOOK_SECONDS if is_same else 0.0
            if waited >= self._seconds:
                self.has_ended_workers = True
                pids = self._reading[:, 0].tolist()
                for process in self._processes:
                    if process.pid in pids:
                        process.kill()
                return


def _dead(reading: Tensor, processes: Sequence[BaseProcess]) -> list[tuple[int, int]]:
    """Sample and exit code of each worker that ended; one that just ends may still seem to live."""
    deadline = time.monotonic() + _LOOK_SECONDS
    while True:
        codes = {p.pid: p.exitcode for p in processes if p.exitcode is not None}
        dead = [(sample, codes[pid]) for pid, _, sample in reading.tolist() if pid in codes]
        if dead or time.monotonic() >= deadline:
            return dead
        time.sleep(0.01)


class _Batches(Dataset[Tensor | DataError]):
    """Batch number to samples. An error is handed over as a value, to arrive with its own text.

    Args:
        read: Reads a sample.
        names: Of the samples, for errors.
        cuts: The samples of each batch.
        reading: (workers, 3) int64, shared: the process of each worker, the batch and the sample
            that it is at, or `_ALL_READ`. It tells where one that died or hangs was.
    """

    def __init__(
        self, read: Read, names: Sequence[object], cuts: Sequence[Tensor], reading: Tensor
    ) -> None:
        self.read = read
        self.names = names
        self.cuts = cuts
        self.reading = reading

    def __getitem__(self, number: int) -> Tensor | DataError:
        worker = get_worker_info()
        place = self.reading[0 if worker is None else worker.id].numpy()
        samples = []
        for sample in self.cuts[number].tolist():
            place[:] = os.getpid(), number, sample
            try:
                samples.append(self.read(sample))
            except DataError as error:
                return error
            except Exception as error:  # whatever it is, the sample is where to look
                told = shorten(describe_error(error), 300)
                return DataError(f"{self.names[sample]}: reading it failed: {told}")
        batch = torch.stack(samples)
        if worker is not None:
            try:  # here, for a thread of torch's would send it, and nobody would hear why it failed
                batch.share_memory_()
            except RuntimeError as error:
                return _not_shared(error, batch)
        place[2] = _ALL_READ
        return batch


def _not_shared(error: RuntimeError, batch: Tensor) -> DataError:
    if "No space left" in str(error) or "Cannot allocate" in str(error):
        return shared_memory_error(batch.nbytes, 1)
    return DataError(f"a worker process can't send a batch: {shorten(str(error), 300)}")


def _of_a_run(_worker: int, deaf: bool) -> None:
    """Has a worker end as soon as the process that asked for it is gone, however that came.

    Torch's workers look whether their parent lives. Where that is a fork server, it lives for as
    long as its children do, and neither would ever end after the run was killed.

    Args:
        deaf: Whether the worker heeds no signal. A launcher signals whole groups, and the process
            that trains ends its workers by itself when it stops.
    """
    if deaf:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    run = multiprocessing.parent_process()
    assert run is not None

    def watch() -> None:
        multiprocessing.connection.wait([run.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _started(loader: DataLoader[Tensor | DataError]) -> Iterator[Tensor | DataError]:
    """An iterator, whose workers may die without an error wherever the training just is.

    Torch sets a handler that raises one; `Streaming` finds out when it waits for the batch.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    arriving = iter(loader)
    signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return arriving


def _copier(device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function that copies to the device; on a GPU beside the computation, on a second stream."""
    if device.type != "cuda":
        return lambda tensor: tensor.to(device)
    beside = torch.cuda.Stream(device)

    def copy(tensor: Tensor) -> Tensor:
        with torch.cuda.stream(beside):
            copied = tensor.to(device, non_blocking=True)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(beside)
        copied.record_stream(computing)  # its memory is not reused before the computation is done
        return copied

    return copy
