"""Scalars that can select the best checkpoint or trigger early stopping."""

from __future__ import annotations

from typing import Any

from dltrain.config.settings import EarlyStopSettings
from dltrain.core.protocols import Data
from dltrain.core.task import Phase, Task
from dltrain.training.state import TrainerState


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


class Monitor:
    """Selects the best checkpoint and decides on early stopping.

    Args:
        task: Task whose scalars are monitored.
        data: Data with or without a validation split.
        best: Name of the scalar that selects the best checkpoint; None if no checkpoint is marked.
        early_stop: Settings of early stopping; None if training never stops early.
    """

    def __init__(
        self, task: Task, data: Data, best: str | None, early_stop: EarlyStopSettings | None
    ) -> None:
        self.task = task
        self.data = data
        self.best = best
        self.early_stop = early_stop

    @property
    def best_is_higher(self) -> bool:
        """Whether a higher value of the scalar that selects the best checkpoint is better."""
        return self.best is not None and monitorable_scalars(self.task, self.data)[self.best]

    def update_best_and_early_stopping(self, state: TrainerState) -> bool:
        """Compare the last values with the best ones so far.

        Args:
            state: State of the trainer after an evaluation.

        Returns:
            Whether the checkpoint of this step is the best so far.
        """
        if (stop := self.early_stop) is not None:
            higher = monitorable_scalars(self.task, self.data)[stop.monitor]
            state.update_early_stopping(state.last.get(stop.monitor), higher, stop.min_delta)
        return self.best is not None and state.update_best(
            state.last.get(self.best), self.best_is_higher
        )

    def is_out_of_patience(self, state: TrainerState) -> bool:
        """Return whether early stopping ends the training at this step."""
        stop = self.early_stop
        return stop is not None and state.evaluations_without_better >= stop.patience

    def early_stop_reason(self, state: TrainerState) -> dict[str, Any] | None:
        """Return why early stopping ends the training at this step; None if it does not."""
        if self.early_stop is None or not self.is_out_of_patience(state):
            return None
        return {
            "step": state.step,
            "metric": self.early_stop.monitor,
            "value": state.last.get(self.early_stop.monitor),
            "best": state.stop_best,
            "patience": self.early_stop.patience,
            "min_delta": self.early_stop.min_delta,
        }
