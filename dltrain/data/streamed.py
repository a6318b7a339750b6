"""Data that does not fit: batches are read by worker processes while the device computes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dltrain.data.draws import epoch_order
from dltrain.data.resident import Transform, without_waiting
from dltrain.errors import DataError, brief
from dltrain.spec import WHOLE, Batch, Share

Read = Callable[[int], Tensor]
"""A sample's number to the sample, on the CPU; deterministic, and can be pickled."""

_LOOK_SECONDS = 1.0  # how often it is looked whether the workers live


class Streamed:
    """A split whose samples are read when they are wanted; see `spec.Split`.

    The batches are the same for any number of workers.
    """

    def __init__(
        self,
        read: Read,
        targets: Tensor,
        *,
        names: Sequence[object],
        seed: int,
        workers: int,
        timeout: float,
        transform: Transform | None = None,
    ) -> None:
        """Args:
        read: Reads a sample.
        targets: (samples,) int64 or (samples, values) float, on the device.
        names: What each sample is called in errors, such as its file.
        seed: Decides the order of each epoch.
        workers: Processes that read; 0 reads in the training process.
        timeout: Seconds that a batch of the workers may take.
        transform: Makes a batch of samples into inputs, on the device.
        """
        self.read = read
        self.targets = targets
        self.names = names
        self.seed = seed
        self.workers = workers
        self.timeout = timeout
        self.transform = transform

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.targets)

    def batches(
        self,
        batch_size: int,
        *,
        epoch: int | None = None,
        offset: int = 0,
        share: Share = WHOLE,
    ) -> Iterator[Batch]:
        """See `spec.Split.batches`; the workers end with the iteration, however it ends.

        Raises:
            DataError: A sample can't be read, or its worker died or did not answer.
        """
        total, device = len(self), self.targets.device
        order = torch.arange(total) if epoch is None else epoch_order(total, self.seed, epoch)
        whole = order.split(batch_size)
        cuts = tuple(samples[share.of(len(samples))] for samples in whole)
        on_device = without_waiting(order, device).split(batch_size)
        reading = torch.full((max(1, self.workers), 3), -1).share_memory_()
        loader = DataLoader(
            _Batches(self.read, self.names, cuts, reading),
            batch_size=None,  # an item is a batch already
            sampler=range(offset, len(cuts)),
            num_workers=self.workers,
            pin_memory=device.type == "cuda",
            timeout=min(self.timeout, _LOOK_SECONDS) if self.workers else 0,
            generator=torch.Generator(),  # or it would draw from the run's generator
            worker_init_fn=_deaf if share.size > 1 else None,
        )
        copy = _copier(device)
        arriving = _started(loader)
        try:
            for number in range(offset, len(cuts)):
                samples = self._next(arriving, number, int(cuts[number][0]), reading)
                if isinstance(samples, DataError):
                    raise samples
                index = on_device[number][share.of(len(whole[number]))]
                inputs = copy(samples)
                if self.transform is not None:
                    inputs = self.transform(inputs, index, epoch)
                targets = self.targets.index_select(0, index)
                yield share.batch(inputs, targets, index, len(whole[number]))
        finally:
            del arriving  # the workers end with it, even while an error holds this frame

    def _next(
        self,
        arriving: Iterator[Tensor | DataError],
        number: int,
        first: int,
        reading: Tensor,
    ) -> Tensor | DataError:
        """The batch of that number, which begins with that sample; an error if it does not come."""
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                return next(arriving)
            except Exception as error:  # a worker's end shows itself in many ways
                told = str(error) or type(error).__name__
            # behind the handler, whose error would hold the iterator and with it the workers
            if "timed out" not in told:
                break
            if time.monotonic() >= deadline:
                return self._hanging(number, first, reading)
        places = _places_of_the_dead(reading)
        name = self.names[[first, *places][-1]]
        if places or "exited unexpectedly" in told:
            return DataError(
                f"{name}: the worker process that was reading it died, perhaps for lack of "
                "memory; fewer data.workers need less"
            )
        return DataError(f"{name}: its batch can't be had of the worker: {brief(told, 300)}")

    def _hanging(self, number: int, first: int, reading: Tensor) -> DataError:
        """Ends the workers: one that is stopped does not heed a request."""
        notes = reading.tolist()
        for child in multiprocessing.active_children():
            if child.pid in [pid for pid, _, _ in notes]:
                child.kill()
        # workers take turns; one may be at a later batch, if it could not send the one awaited
        places = [s for _, at, s in notes if at >= number and (at - number) % self.workers == 0]
        return DataError(
            f"{self.names[[first, *places][-1]]}: its worker process hangs: no batch in "
            f"{self.timeout:g} s; data.timeout is how long to wait"
        )


def _places_of_the_dead(reading: Tensor) -> list[int]:
    """The samples at which workers ended; one that just ends may still seem to live."""
    deadline = time.monotonic() + _LOOK_SECONDS
    while True:
        alive = {child.pid for child in multiprocessing.active_children()}
        places = [sample for pid, _, sample in reading.tolist() if pid >= 0 and pid not in alive]
        if places or time.monotonic() >= deadline:
            return places
        time.sleep(0.01)


class _Batches(Dataset[Tensor | DataError]):
    """Batch number to samples. An error is handed over as a value, to arrive with its own text.

    Args:
        read: Reads a sample.
        names: Of the samples, for errors.
        cuts: The samples of each batch.
        reading: (workers, 3) int64, shared: the process of each worker, the batch and the sample
            that it is at. It tells where one that died or hangs was.
    """

    def __init__(
        self, read: Read, names: Sequence[object], cuts: tuple[Tensor, ...], reading: Tensor
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
                told = brief(f"{type(error).__name__}: {error}", 300)
                return DataError(f"{self.names[sample]}: reading it failed: {told}")
        return torch.stack(samples)


def _started(loader: DataLoader[Tensor | DataError]) -> Iterator[Tensor | DataError]:
    """An iterator, whose workers may die without an error wherever the training just is.

    Torch sets a handler that raises one; `Streamed` finds out when it waits for the batch.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    arriving = iter(loader)
    signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return arriving


def _deaf(_worker: int) -> None:
    """A launcher signals whole groups: the process that trains ends its workers when it stops."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


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
