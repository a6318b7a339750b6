"""Slices of a batch that go through the model one after another, as large as the memory bears."""

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
    """Sums over the slices of a batch; with `auto` they are halved where the memory is full.

    A slice that failed leaves no trace: gradients, buffers, such as batch norm's statistics, and
    random generators go back to where they were, and the whole batch is taken again in slices half
    as large, from then on. So the outcome is that of a run with this size from the start, but for
    earlier phases of the same step, which had room.

    Args:
        setting: Samples in a slice; None takes the whole batch.
        task: Its gradients, and all else that a slice changes.
        say: Tells the user of a smaller size.
        share: Whose share of a batch it is that is sliced.
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
        """The sum of what `work` gives for each slice, a scalar on the device.

        Args:
            state: Remembers the size of the slices.
            batch: What is sliced.
            work: Takes a slice, and whether it is the last.

        Raises:
            RunError: The memory is too small for a single sample.
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
            # Not in the handler, where the error still holds on to what has to be freed.
            self.task.model.zero_grad()
            undo()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            failed = min(state.micro_batch or len(batch), len(batch))
            if failed == 1:
                raise RunError("the memory is too small for a single sample in training")
            state.micro_batch = failed // 2
            self.warn(f"the memory is full: going on in micro-batches of {state.micro_batch}")

    def parts(self, batch: Batch) -> list[Batch]:
        """The slices of a batch, as far as their size is known before the memory is full."""
        return self._parts(batch, self.size)

    def _parts(self, batch: Batch, size: int | None) -> list[Batch]:
        parts = list(batch.split(size))
        if size is not None and batch.global_size is not None:
            # As many as of the largest share: what a slice exchanges, all processes exchange.
            wanted = math.ceil(self.rank_slice.max_size(batch.global_size) / size)
            parts += [batch.placeholder()] * (wanted - len(parts))
        return parts

    def _sum(self, batch: Batch, size: int | None, work: Callable[[Batch, bool], Tensor]) -> Tensor:
        parts = self._parts(batch, size)
        total = work(parts[0], len(parts) == 1)
        for number, part in enumerate(parts[1:], start=2):
            total = total + work(part, number == len(parts))
        return total
