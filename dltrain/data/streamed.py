"""Data that does not fit: batches are read by worker processes while the device computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dltrain.data.draws import epoch_order
from dltrain.data.resident import Transform, without_waiting
from dltrain.errors import DataError
from dltrain.spec import Batch

Read = Callable[[list[int]], Tensor]
"""Sample numbers to samples, side by side, on the CPU; deterministic, and can be pickled."""


class Streamed:
    """A split whose samples are read when they are wanted; see `spec.Split`.

    The batches are the same for any number of workers.
    """

    def __init__(
        self,
        read: Read,
        targets: Tensor,
        *,
        seed: int,
        workers: int,
        transform: Transform | None = None,
    ) -> None:
        """Args:
        read: Reads samples.
        targets: (samples,) int64 or (samples, values) float, on the device.
        seed: Decides the order of each epoch.
        workers: Processes that read; 0 reads in the training process.
        transform: Makes a batch of samples into inputs, on the device.
        """
        self.read = read
        self.targets = targets
        self.seed = seed
        self.workers = workers
        self.transform = transform

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.targets)

    def batches(
        self, batch_size: int, *, epoch: int | None = None, offset: int = 0
    ) -> Iterator[Batch]:
        """See `spec.Split.batches`; the workers end with the iteration, however it ends.

        Raises:
            DataError: A sample can't be read.
        """
        total, device = len(self), self.targets.device
        order = torch.arange(total) if epoch is None else epoch_order(total, self.seed, epoch)
        cuts = order.split(batch_size)
        indexes = without_waiting(order, device).split(batch_size)
        loader = DataLoader(
            _Batches(self.read, cuts),
            batch_size=None,  # an item is a batch already
            sampler=range(offset, len(cuts)),
            num_workers=self.workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # or it would draw from the run's generator
        )
        copy = _copier(device)
        for index, samples in zip(indexes[offset:], loader, strict=True):
            if isinstance(samples, DataError):
                raise samples
            inputs = copy(samples)
            if self.transform is not None:
                inputs = self.transform(inputs, index, epoch)
            yield Batch(inputs, self.targets.index_select(0, index), index)


class _Batches(Dataset[Tensor | DataError]):
    """Batch number to samples. An error is handed over as a value, to arrive with its own text."""

    def __init__(self, read: Read, cuts: tuple[Tensor, ...]) -> None:
        self.read = read
        self.cuts = cuts

    def __getitem__(self, number: int) -> Tensor | DataError:
        try:
            return self.read(self.cuts[number].tolist())
        except DataError as error:
            return error


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
