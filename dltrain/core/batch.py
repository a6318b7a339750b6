"""A batch of samples, and the part of it that one rank processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RankSlice:
    """Which part of each batch is whose, where several processes train together.

    The parts lie one behind the other, in the order of the processes, and differ by one sample at
    most. Where there are fewer samples than processes, one sample stands in for each empty part: it
    goes through the model, so that all processes do the same, and counts nothing.

    Attributes:
        rank: This process's number, from 0.
        size: How many there are.
    """

    rank: int = 0
    world_size: int = 1

    def bounds(self, samples: int) -> slice:
        """This process's part of a batch of so many samples; never empty."""
        start, stop = self._start(samples, self.rank), self._start(samples, self.rank + 1)
        return slice(start, stop) if start < stop else slice(samples - 1, samples)

    def max_size(self, samples: int) -> int:
        """Samples in the largest part."""
        return self._start(samples, 1)

    def make_batch(self, inputs: Tensor, targets: Tensor, index: Tensor, samples: int) -> Batch:
        """What `of` has cut out of a batch of so many samples."""
        counts = self._start(samples, self.rank) < self._start(samples, self.rank + 1)
        return Batch(inputs, targets, index, global_size=samples, is_real=counts)

    def _start(self, samples: int, rank: int) -> int:
        return -(-samples * rank // self.world_size)


FULL_BATCH = RankSlice()
"""Of one process that trains alone."""


@dataclass(slots=True)
class Batch:
    """Samples, side by side, on the device.

    Attributes:
        inputs: (batch, *input_shape), float; (batch, tokens) int64 for text.
        targets: (batch,) int64 classes, (batch, values) float, or (batch, tokens) int64.
        index: (batch,) int64, each sample's number in its split.
        step: The training step that the batch is for, from 0, in a graph of steps an int64 scalar
            on the device; None in evaluation. What a task draws at random is to depend on it and on
            `index`, so that no draw depends on how a batch is cut, or on where a run was stopped.
        samples: In the batch over all processes, of which these are one's share; None where there
            is one process.
        counts: False where the first sample only stands in for a share, or a slice, that is empty.
    """

    inputs: Tensor
    targets: Tensor
    index: Tensor
    step: int | Tensor | None = None
    global_size: int | None = None
    is_real: bool = True

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.index)

    def split(self, size: int | None) -> Iterator[Batch]:
        """Slices of at most `size` samples, in order; the batch itself where it needs no cut."""
        if size is None or size >= len(self):
            yield self
            return
        columns = [column.split(size) for column in (self.inputs, self.targets, self.index)]
        for parts in zip(*columns, strict=True):
            yield Batch(*parts, step=self.step, global_size=self.global_size)

    def placeholder(self) -> Batch:
        """The first sample, which counts nothing."""
        columns = (self.inputs[:1], self.targets[:1], self.index[:1])
        return Batch(*columns, step=self.step, global_size=self.global_size, is_real=False)
