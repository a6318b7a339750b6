"""Backups of everything that a training step changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dltrain.core.task import Phase, Task
from dltrain.training.device import generator_states


class StepRollback:
    """Copies of everything that a training step changes; a call restores it.

    The copies are buffers, extra states and frozen parameters of all modules of a task, the states
    of the random generators, and parameters and optimizers of the first phases. Trained parameters
    of later phases are not copied: a step is only undone before they change.

    Args:
        task: Task with the modules and phases.
        num_stepped: Number of phases that may have updated their weights when the step is undone.
    """

    def __init__(self, task: Task, num_stepped: int = 0) -> None:
        later = {id(p) for phase in task.phases[num_stepped:] for p in _trained_by(phase)}
        modules = _modules_of(task)
        tensors = {
            id(t): t for m in modules for t in (*m._parameters.values(), *m._buffers.values())
        }
        self._tensors = [
            (tensor, tensor.detach().clone())
            for tensor in tensors.values()
            if tensor is not None and id(tensor) not in later
        ]
        self._buffers = [(module, dict(module._buffers)) for module in modules if module._buffers]
        self._extra = [
            (module, deepcopy(module.get_extra_state()))
            for module in modules
            if type(module).get_extra_state is not nn.Module.get_extra_state
        ]
        self._optimizers = [
            OptimizerBackup(optimizer)
            for phase in task.phases[:num_stepped]
            for optimizer in phase.optimizers
        ]
        self._generators: Sequence[tuple[Callable[[Any], Any], Any]] = generator_states()

    @torch.no_grad()
    def __call__(self) -> None:
        """Restore everything."""
        for optimizer in self._optimizers:
            optimizer.restore()
        for tensor, copy in self._tensors:
            tensor.copy_(copy)
        for module, buffers in self._buffers:  # buffers may have been replaced
            module._buffers.update(buffers)
        for module, state in self._extra:
            module.set_extra_state(state)
        for set_state, state in self._generators:
            set_state(state)


class OptimizerBackup:
    """Copies of the parameters and the state of an optimizer.

    Args:
        optimizer: Optimizer to copy.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        groups = optimizer.param_groups
        self._parameters = [(p, p.detach().clone()) for group in groups for p in group["params"]]
        self._states = {
            parameter: {key: (value, _copied(value)) for key, value in state.items()}
            for parameter, state in optimizer.state.items()
        }

    @torch.no_grad()
    def restore(self) -> None:
        """Restore parameters and state; state that was created since is removed."""
        for parameter, copy in self._parameters:
            parameter.copy_(copy)
        for parameter in [p for p in self.optimizer.state if p not in self._states]:
            del self.optimizer.state[parameter]
        for parameter, state in self._states.items():
            for value, copy in state.values():
                if isinstance(value, Tensor):
                    value.copy_(copy)
            self.optimizer.state[parameter] = {key: value for key, (value, _) in state.items()}

    @torch.no_grad()
    def restore_where(self, condition: Tensor) -> None:
        """Restore parameters and state if a condition holds, without device sync.

        State that was created since becomes zero, which is the initial state of torch's optimizers.

        Args:
            condition: Scalar bool on the device.
        """
        for parameter, copy in self._parameters:
            torch.where(condition, copy, parameter, out=parameter)
        for parameter, state in self.optimizer.state.items():
            before = self._states.get(parameter, {})
            for key, value in state.items():
                if isinstance(value, Tensor):
                    copy = before[key][1] if key in before else torch.zeros_like(value)
                    value.copy_(torch.where(condition.to(value.device), copy, value))


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else deepcopy(value)


def _trained_by(phase: Phase) -> Iterable[Tensor]:
    return (
        parameter
        for optimizer in phase.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    )


def _modules_of(task: Task) -> list[nn.Module]:
    """Return all modules of the model and of other attributes of the task, such as its loss."""
    others = [value for value in vars(task).values() if isinstance(value, nn.Module)]
    return list({id(m): m for top in (task.model, *others) for m in top.modules()}.values())
