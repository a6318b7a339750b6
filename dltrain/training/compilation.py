"""Compilation of modules with torch.compile, and a check of its effect."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from dltrain.core.task import Task

_compiled: set[type[nn.Module]] = set()
"""Classes of modules that torch has compiled in this process; it reuses their graphs."""


def compile_task(task: Task) -> None:
    """Compile the modules that a task calls, each at its first call. Their state_dict keys stay."""
    for module in _called(task):
        module.compile()


def _called(task: Task) -> Iterable[nn.Module]:
    return [module for phase in task.phases for module in phase.called or (phase.module,)]


class CompilationCheck:
    """Checks after the first step whether torch.compile has compiled anything of a task.

    Args:
        task: Task that `compile_task` has received, before its first step.
    """

    def __init__(self, task: Task) -> None:
        self._kinds = {type(module) for module in _called(task)}
        self._before = _num_graphs()

    def warning(self) -> str | None:
        """Return a warning if torch has compiled no graph of any of the task's modules."""
        if _num_graphs() > self._before:
            _compiled.update(self._kinds)
        if not _compiled.isdisjoint(self._kinds):
            return None
        return (
            "train.compile: torch.compile has compiled nothing of this model, and steps run as "
            "without it; TORCH_LOGS=graph_breaks shows why"
        )


def _num_graphs() -> int:
    """Return the number of graphs that torch has compiled in this process."""
    from torch._dynamo.utils import counters  # slow to import, and only of use here

    return counters["stats"]["unique_graphs"]
