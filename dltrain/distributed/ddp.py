"""Gradients that several processes make together."""

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
    """The gradients of each phase's loss, summed over all processes.

    A phase is wrapped in torch's DistributedDataParallel, unless `shard` has made it one of FSDP2.
    With one process there is nothing to wrap.

    Args:
        task: Gives the losses.
        world: The processes.
    """

    def __init__(self, task: Task, process_group: ProcessGroup) -> None:
        self.process_group = process_group
        self._losses = {phase.name: _PhaseLoss(task, phase) for phase in task.phases}
        self._norms = [m for m in task.model.modules() if isinstance(m, GroupBatchNorm)]
        self._replicas: dict[str, DistributedDataParallel] = {}
        if process_group.world_size > 1:
            # A kernel of one pixel, or of one channel, has two equal layouts; both are as fast.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
            finds = may_have_unused_parameters(task)
            if finds:
                _spend_warning()
            for phase in task.phases:
                if not is_sharded(phase.module):
                    loss = self._losses[phase.name]
                    self._replicas[phase.name] = DistributedDataParallel(
                        loss, find_unused_parameters=finds
                    )

    def loss(self, part: Batch, phase: Phase) -> Tensor:
        """Summed loss of this process's samples, a scalar."""
        for norm in self._norms:
            norm.counts = part.is_real
        loss = self._replicas.get(phase.name, self._losses[phase.name])(part)
        return loss if part.is_real else loss * 0

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a loss, divided by the batch's weight, to those there are."""
        # Torch takes the mean over the processes, and this is to be the sum.
        (
            loss if self.process_group.world_size == 1 else loss * self.process_group.world_size
        ).backward()

    def synchronized(self, phase: Phase, last: bool) -> AbstractContextManager[Any]:
        """Gradients made in this context are exchanged where it is the last slice of a batch."""
        if is_sharded(phase.module):
            phase.module.set_requires_gradient_sync(last)  # pyright: ignore[reportCallIssue]
        elif not last and phase.name in self._replicas:
            return self._replicas[phase.name].no_sync()
        return nullcontext()


KNOWN_CODE = ("dltrain.", "torch.", "torchvision.")
"""Whose modules and tasks use all of their trainable parameters in each step."""


def may_have_unused_parameters(task: Task) -> bool:
    """Whether a step may not need all parameters, on all ranks or on some.

    Torch looks for those in each step then, at the cost of a walk through the autograd graph. For
    classes that come with dltrain or torch it need not.
    """
    loss = task.loss_function
    parts = (task, *task.model.modules(), *(() if loss is None else loss.modules()))
    return not all(type(part).__module__.startswith(KNOWN_CODE) for part in parts)


def _spend_warning() -> None:
    """Torch warns once a process, below Python, where it looked and found no unused parameter.

    That is no mistake here: whether a class of the user's uses all may differ between steps.
    """
    with output_suppressed(2):
        layer = nn.LayerNorm(1)  # begins without a random number: a run's own are not touched
        wrapped = DistributedDataParallel(layer, find_unused_parameters=True)
        wrapped(torch.zeros(1, 1)).sum().backward()


class _PhaseLoss(nn.Module):
    """The task's loss as a module's forward pass, which is what DistributedDataParallel watches."""

    def __init__(self, task: Task, phase: Phase) -> None:
        super().__init__()
        self.module = phase.module
        self._task, self._phase = task, phase

    def forward(self, part: Batch) -> Tensor:
        return self._task.loss(part, self._phase)
