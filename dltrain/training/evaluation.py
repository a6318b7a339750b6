"""A task in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from dltrain.core.batch import Batch
from dltrain.core.protocols import Split
from dltrain.core.task import Embedding, Task
from dltrain.data.subset import evenly_spaced_batches
from dltrain.training.ema import ExponentialMovingAverage
from dltrain.training.runtime import Runtime


class Evaluator:
    """Evaluates a task on whole splits, with the EMA weights where EMA is on.

    Args:
        task: Task whose metrics are computed.
        runtime: Precision of the forward pass, and the ranks that evaluate together, each on its
            shard of every batch.
        ema: Exponential moving average of the weights.
        batch_size: Samples per batch over all ranks.
        raise_if_interrupted: Function that is called before each batch.
    """

    def __init__(
        self,
        task: Task,
        runtime: Runtime,
        ema: ExponentialMovingAverage,
        batch_size: int,
        raise_if_interrupted: Callable[[], None],
    ) -> None:
        self.task = task
        self.runtime = runtime
        self.ema = ema
        self.batch_size = batch_size
        self.raise_if_interrupted = raise_if_interrupted

    def evaluate(self, split: Split) -> dict[str, float]:
        """Return loss and metrics over all samples of a split; the same on all ranks."""
        whole = split.batches(self.batch_size, rank_slice=self.runtime.process_group.rank_slice)
        with self._evaluation_mode(whole) as batches:
            values = self.task.evaluate(batches)  # device sync, at the end of the split
        return self.runtime.process_group.broadcast_object(lambda: values)

    def embed(self, split: Split, num_samples: int) -> Embedding:
        """Return evenly spaced samples of a split as points.

        Args:
            split: Split of which some samples are read.
            num_samples: Maximum number of samples.
        """
        rank_slice = self.runtime.process_group.rank_slice
        samples = evenly_spaced_batches(split, num_samples, self.batch_size, rank_slice)
        with self._evaluation_mode(samples) as batches, torch.compiler.set_stance("force_eager"):
            return self.task.embed(batches, num_samples)

    @contextmanager
    def _evaluation_mode(self, batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
        """Prepare the model for evaluation inside the context, and yield the batches."""
        self.task.model.eval()
        self.runtime.process_group.broadcast_(self.task.model.buffers())
        with self.ema.applied(), torch.inference_mode(), self.runtime.precision.autocast():
            yield self._until_interrupted(batches)
        self.task.model.train()

    def _until_interrupted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.raise_if_interrupted()
            yield batch
