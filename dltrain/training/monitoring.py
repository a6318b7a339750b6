"""Scalars that can select the best checkpoint or trigger early stopping."""

from __future__ import annotations

from dltrain.core.protocols import Data
from dltrain.core.task import Phase, Task


def loss_name(task: Task, phase: Phase) -> str:
    """Return the name of a phase's training loss: `loss`, or `PHASE_loss` of several phases."""
    return "loss" if len(task.phases) == 1 else f"{phase.name}_loss"


def monitorable_scalars(task: Task, data: Data) -> dict[str, bool]:
    """Return the scalars that can be monitored, and for each whether higher is better."""
    scalars = task.scalars if data.validation is not None else {}
    return {
        **{f"train/{loss_name(task, phase)}": False for phase in task.phases},
        **{f"val/{name}": higher for name, higher in scalars.items() if higher is not None},
    }


def undirected_scalars(task: Task) -> set[str]:
    """Return the scalars without a known direction, which can't be monitored."""
    return {f"val/{name}" for name, higher in task.scalars.items() if higher is None}
