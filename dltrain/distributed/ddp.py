"""Gradients over all ranks, with DistributedDataParallel (DDP)."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dltrain.core.batch import Batch
from dltrain.core.protocols import ProcessGroup
from dltrain.core.task import Phase, Task
from dltrain.distributed.batch_norm import GroupBatchNorm
from dltrain.distributed.fsdp import is_sharded
from dltrain.distributed.process_group import output_suppressed


class GradientReducer:
    """Computes the gradients of each phase's loss, summed over all ranks.

    A phase is wrapped in torch's DistributedDataParallel, unless `apply_fsdp` has sharded it. With
    a single rank it is not wrapped.

    Args:
        task: Task with the losses.
        process_group: Ranks over which gradients are summed.
    """

    def __init__(self, task: Task, process_group: ProcessGroup) -> None:
        self.process_group = process_group
        self._losses = {phase.name: _PhaseLoss(task, phase) for phase in task.phases}
        self._norms = [m for m in task.model.modules() if isinstance(m, GroupBatchNorm)]
        self._replicas: dict[str, DistributedDataParallel] = {}
        if process_group.world_size > 1:
            # Kernels of one pixel or one channel have two equivalent layouts, equally fast.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
            find_unused = may_have_unused_parameters(task)
            if find_unused:
                _suppress_warning()
            for phase in task.phases:
                if not is_sharded(phase.module):
                    loss = self._losses[phase.name]
                    self._replicas[phase.name] = DistributedDataParallel(
                        loss, find_unused_parameters=find_unused
                    )

    def loss(self, part: Batch, phase: Phase) -> Tensor:
        """Return the summed loss of this rank's samples, a scalar on the device."""
        for norm in self._norms:
            norm.counts = part.is_real
        loss = self._replicas.get(phase.name, self._losses[phase.name])(part)
        return loss if part.is_real else loss * 0

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a loss that is divided by the weight of the batch."""
        # DDP and FSDP average over ranks; the result must be the sum.
        (
            loss if self.process_group.world_size == 1 else loss * self.process_group.world_size
        ).backward()

    def synchronized(self, phase: Phase, last: bool) -> AbstractContextManager[Any]:
        """Return a context that exchanges gradients for the last micro-batch of a batch only."""
        if is_sharded(phase.module):
            phase.module.set_requires_gradient_sync(last)  # pyright: ignore[reportCallIssue]
        elif not last and phase.name in self._replicas:
            return self._replicas[phase.name].no_sync()
        return nullcontext()


KNOWN_CODE = ("dltrain.", "torch.", "torchvision.")
"""Packages whose modules and tasks use all of their trainable parameters in each step."""


def may_have_unused_parameters(task: Task) -> bool:
    """Return whether a step may leave parameters unused, on all or on some ranks.

    If so, DDP must search the autograd graph for them at each step, which takes time. Classes of
    dltrain and torch use all parameters.
    """
    loss = task.loss_function
    parts = (task, *task.model.modules(), *(() if loss is None else loss.modules()))
    return not all(type(part).__module__.startswith(KNOWN_CODE) for part in parts)


def _suppress_warning() -> None:
    """Trigger and suppress DDP's warning, once per process, that all parameters were used.

    A user's class may use different parameters in different steps, so the search is necessary.
    """
    with output_suppressed(2):
        layer = nn.LayerNorm(1)  # initialized without random numbers
        wrapped = DistributedDataParallel(layer, find_unused_parameters=True)
        wrapped(torch.zeros(1, 1)).sum().backward()


class _PhaseLoss(nn.Module):
    """The loss of a phase as the forward pass of a module, as DDP requires it."""

    def __init__(self, task: Task, phase: Phase) -> None:
        super().__init__()
        self.module = phase.module
        self._task, self._phase = task, phase

    def forward(self, part: Batch) -> Tensor:
        return self._task.loss(part, self._phase)
