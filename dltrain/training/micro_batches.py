"""Micro-batches: slices of a batch that go through the model one after another."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from dltrain.core.batch import FULL_BATCH, Batch, RankSlice
from dltrain.core.errors import RunError
from dltrain.core.task import Task
from dltrain.training.device import is_out_of_memory
from dltrain.training.rollback import StepRollback
from dltrain.training.state import TrainerState


class MicroBatches:
    """Sums over the micro-batches of a batch; `auto` halves their size when out of memory.

    When a micro-batch runs out of memory, gradients, buffers (such as the statistics of batch
    normalization) and random generators are restored, and the whole batch is computed again in
    micro-batches of half the size, as are all later batches. So results equal those of a run with
    this size from the start, except for earlier phases of the same step.

    Args:
        setting: Samples per micro-batch; None does not split batches.
        task: Task whose gradients and buffers are restored.
        warn: Function that shows a line to the user.
        rank_slice: Part of each batch that this rank processes.
    """

    def __init__(
        self,
        setting: int | Literal["auto"] | None,
        task: Task,
        warn: Callable[[str], None],
        rank_slice: RankSlice = FULL_BATCH,
    ) -> None:
        self.auto: bool = setting == "auto"
        self.task = task
        self.warn = warn
        self.rank_slice = rank_slice
        self.size: int | None = None if setting == "auto" else setting

    def total(
        self, state: TrainerState, batch: Batch, work: Callable[[Batch, bool], Tensor]
    ) -> Tensor:
        """Return the sum of the values of `work` over all micro-batches, a scalar on the device.

        Args:
            state: State that holds the size that `auto` has found.
            batch: Batch to split.
            work: Function of a micro-batch, and of whether it is the last.

        Raises:
            RunError: A single sample runs out of memory.
        """
        if not self.auto:
            return self._sum(batch, self.size, work)
        while True:
            undo = StepRollback(self.task)
            try:
                return self._sum(batch, state.micro_batch, work)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler: the error refers to memory that must be freed.
            self.task.model.zero_grad()
            undo()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            failed = min(state.micro_batch or len(batch), len(batch))
            if failed == 1:
                raise RunError(
                    "out of memory with a single sample; make the model or its inputs smaller"
                )
            state.micro_batch = failed // 2
            self.warn(f"out of memory: continuing with micro-batches of {state.micro_batch}")

    def parts(self, batch: Batch) -> list[Batch]:
        """Return the micro-batches of a batch; with `auto`, the batch itself."""
        return self._parts(batch, self.size)

    def _parts(self, batch: Batch, size: int | None) -> list[Batch]:
        parts = list(batch.split(size))
        if size is not None and batch.global_size is not None:
            # As many as on the rank with the largest shard: all ranks communicate equally often.
            wanted = math.ceil(self.rank_slice.max_size(batch.global_size) / size)
            parts += [batch.placeholder()] * (wanted - len(parts))
        return parts

    def _sum(self, batch: Batch, size: int | None, work: Callable[[Batch, bool], Tensor]) -> Tensor:
        parts = self._parts(batch, size)
        total = work(parts[0], len(parts) == 1)
        for number, part in enumerate(parts[1:], start=2):
            total = total + work(part, number == len(parts))
        return total
