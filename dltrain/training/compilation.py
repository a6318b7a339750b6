"""Modules compiled with torch.compile, and whether anything came of it."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from dltrain.core.task import Task

_compiled: set[type[nn.Module]] = set()
"""Kinds of modules that torch has made a graph of in this process, and may use again."""


def compile_task(task: Task) -> None:
    """Compile the modules that a task calls, each at its first call; their keys stay."""
    for module in _called(task):
        module.compile()


def _called(task: Task) -> Iterable[nn.Module]:
    return [module for phase in task.phases for module in phase.called or (phase.module,)]


class CompilationCheck:
    """Tells, after a first step, whether torch.compile has compiled anything of a task.

    Args:
        task: Has been given to `compile_task`, and not been called yet.
    """

    def __init__(self, task: Task) -> None:
        self._kinds = {type(module) for module in _called(task)}
        self._before = _num_graphs()

    def nothing_compiled(self) -> bool:
        """Return whether torch has made no graph of any of the task's modules."""
        if _num_graphs() > self._before:
            _compiled.update(self._kinds)
        return _compiled.isdisjoint(self._kinds)


def _num_graphs() -> int:
    """Graphs that torch has compiled in this process."""
    from torch._dynamo.utils import counters  # slow to import, and only of use here

    return counters["stats"]["unique_graphs"]
