"""State of the trainer, apart from the tensors of model and optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor


@dataclass
class Window:
    """Sums over the steps since scalars were logged last; tensors stay on the device."""

    loss: Tensor | float = 0.0
    weight: Tensor | float = 0.0
    gradient_norm: Tensor | float = 0.0  # of the last step alone

    def set(self, other: Window) -> None:
        """Copy the values of another window; tensors of sums are overwritten in place."""
        for name, value in vars(other).items():
            own = getattr(self, name)
            if not isinstance(own, Tensor) or name == "gradient_norm":
                setattr(self, name, value)
            elif isinstance(value, Tensor):
                own.copy_(value)
            else:
                own.fill_(value)


@dataclass
class TrainerState:
    """Counters, sums and best values; saved as JSON in every checkpoint.

    Attributes:
        step: Number of completed steps; the position in the data.
        updates: Number of steps that changed the weights; the progress of the schedule.
        skipped: Number of steps that were skipped because a loss or gradient was not finite.
        skipped_in_a_row: Number of consecutive skipped steps up to now.
        windows: Sums that have not been logged yet, by phase.
        last: Last value of every scalar; None where it was not finite.
        best: Best value of the scalar that selects the best checkpoint, and its step.
        best_metrics: Validation scalars at that step.
        stop_best: Best value of the scalar that early stopping monitors.
        evaluations_without_better: Number of evaluations since that value.
        evaluation_due: Whether the evaluation of this step is not complete.
        micro_batch: Samples per micro-batch after `train.micro_batch: auto` ran out of memory; None
            before.
        seconds: Seconds spent on the run, including those before it was resumed.
    """

    step: int = 0
    updates: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    windows: dict[str, Window] = field(default_factory=dict)
    last: dict[str, float | None] = field(default_factory=dict)
    best: tuple[float, int] | None = None
    best_metrics: dict[str, float | None] = field(default_factory=dict)
    stop_best: float | None = None
    evaluations_without_better: int = 0
    evaluation_due: bool = False
    micro_batch: int | None = None
    seconds: float = 0.0

    def add(
        self, phase: str, loss: Tensor | float, weight: Tensor | int, gradient_norm: Tensor
    ) -> None:
        """Add the summed loss and the weight of a step to the window of its phase."""
        window = self.windows.setdefault(phase, Window())
        window.loss += loss  # in place if it is a tensor
        window.weight += weight
        window.gradient_norm = gradient_norm

    def take(self, phase: str) -> tuple[float, float, float]:
        """Return and clear summed loss, summed weight and last gradient norm. Device sync."""
        window = self.windows.pop(phase, Window())
        return float(window.loss), float(window.weight), float(window.gradient_norm)

    def update_early_stopping(
        self, value: float | None, higher_is_better: bool, min_delta: float
    ) -> None:
        """Count the evaluations since the scalar improved by more than `min_delta`."""
        best = self.stop_best
        if value is not None and (best is None or _gain(value, best, higher_is_better) > min_delta):
            self.stop_best, self.evaluations_without_better = value, 0
        else:
            self.evaluations_without_better += 1

    def update_best(self, value: float | None, higher_is_better: bool) -> bool:
        """Return whether a value is the best so far, and store it in that case; None never is."""
        best = self.best
        if value is None or (best and _gain(value, best[0], higher_is_better) <= 0):
            return False
        self.best = (value, self.step)
        self.best_metrics = {n: v for n, v in self.last.items() if n.startswith("val/")}
        return True

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON-serializable values. Device sync."""
        windows = {
            phase: {name: float(value) for name, value in vars(window).items()}
            for phase, window in self.windows.items()
        }
        copies = {"last": dict(self.last), "best_metrics": dict(self.best_metrics)}
        return {**vars(self), "windows": windows, **copies}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainerState:
        """Return the state that `to_json` was called on.

        Raises:
            KeyError: A field is missing or unknown.
        """
        names = {f.name for f in fields(cls)}
        if value.keys() != names:
            raise KeyError(f"trainer state: {sorted(value.keys() ^ names)}")
        windows = {phase: Window(**sums) for phase, sums in value["windows"].items()}
        best = tuple(value["best"]) if value["best"] is not None else None
        return cls(**{**value, "windows": windows, "best": best})


def _gain(value: float, best: float, higher_is_better: bool) -> float:
    return value - best if higher_is_better else best - value
