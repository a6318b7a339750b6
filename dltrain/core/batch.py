"""A batch of samples, and the part of it that one rank processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RankSlice:
    """The shard of each batch that one rank processes.

    Shards are consecutive, sorted by rank, and their sizes differ by one sample at most. If there
    are fewer samples than ranks, an empty shard is replaced by a placeholder: one sample that goes
    through the model, so that all ranks run the same operations, with weight 0.

    Attributes:
        rank: Number of this rank, from 0.
        world_size: Number of ranks.

    Example:
        >>> from dltrain.core.batch import RankSlice
        >>> RankSlice(rank=1, world_size=3).bounds(7)
        slice(3, 5, None)
    """

    rank: int = 0
    world_size: int = 1

    def bounds(self, samples: int) -> slice:
        """Return the shard of this rank in a batch of `samples` samples; never empty."""
        start, stop = self._start(samples, self.rank), self._start(samples, self.rank + 1)
        return slice(start, stop) if start < stop else slice(samples - 1, samples)

    def max_size(self, samples: int) -> int:
        """Return the size of the largest shard of a batch of `samples` samples."""
        return self._start(samples, 1)

    def make_batch(self, inputs: Tensor, targets: Tensor, index: Tensor, samples: int) -> Batch:
        """Return the batch of the shard that `bounds` selects from `samples` samples."""
        is_real = self._start(samples, self.rank) < self._start(samples, self.rank + 1)
        return Batch(inputs, targets, index, global_size=samples, is_real=is_real)

    def _start(self, samples: int, rank: int) -> int:
        return -(-samples * rank // self.world_size)


FULL_BATCH = RankSlice()
"""Slice of a single process: the whole batch."""


@dataclass(slots=True)
class Batch:
    """A batch of samples on the device.

    Attributes:
        inputs: (batch, *input_shape), float; (batch, tokens) int64 for text.
        targets: (batch,) int64 classes, (batch, values) float, or (batch, tokens) int64.
        index: (batch,) int64, index of each sample in its split.
        step: Number of the training step, from 0; an int64 scalar on the device in a CUDA graph;
            None in evaluation. Random numbers of a task must be a function of it and of `index`, so
            that they depend neither on micro-batches nor on interruptions.
        global_size: Number of samples in the batch over all ranks; None for a single process.
        is_real: False if the batch is a placeholder for an empty shard or micro-batch.
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
        """Yield slices of at most `size` samples; the batch itself if it is not larger."""
        if size is None or size >= len(self):
            yield self
            return
        columns = [column.split(size) for column in (self.inputs, self.targets, self.index)]
        for parts in zip(*columns, strict=True):
            yield Batch(*parts, step=self.step, global_size=self.global_size)

    def placeholder(self) -> Batch:
        """Return the first sample as a batch with weight 0."""
        columns = (self.inputs[:1], self.targets[:1], self.index[:1])
        return Batch(*columns, step=self.step, global_size=self.global_size, is_real=False)
