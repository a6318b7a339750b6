"""What a run needs to go on exactly, less its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor


@dataclass
class Window:
    """Sums over the steps since the last training scalars; tensors stay on the device."""

    loss: Tensor | float = 0.0
    weight: Tensor | float = 0.0
    gradient_norm: Tensor | float = 0.0  # of the last step alone

    def set(self, other: Window) -> None:
        """Takes the other's values; the sums keep their place on the device."""
        for name, value in vars(other).items():
            kept = getattr(self, name)
            if not isinstance(kept, Tensor) or name == "gradient_norm":
                setattr(self, name, value)
            elif isinstance(value, Tensor):
                kept.copy_(value)
            else:
                kept.fill_(value)


@dataclass
class TrainerState:
    """Counters and accounts; saved as JSON in every checkpoint.

    Attributes:
        step: Batches seen; says where in the data the run stands.
        updates: Steps that changed the weights; says where in the schedule the run stands.
        skipped: Steps skipped because a loss or gradient was not finite.
        skipped_in_a_row: The last of them, without a good one between.
        windows: By phase, what has not been recorded yet.
        last: The last value of every scalar; None where it was not finite.
        best: Value and step of the scalar that chooses the best checkpoint.
        best_metrics: The validation scalars at that step.
        stop_best: The best value of the scalar that early stopping watches.
        evaluations_without_better: How many evaluations since then.
        evaluation_due: The evaluation of this step has not been finished.
        micro_batch: Samples in a slice of a batch, where `train.micro_batch: auto` has found that
            the memory bears no more; None before.
        seconds: Spent training, over all processes that worked on the run.
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
        """Adds a step's summed loss and weight to its phase's window."""
        window = self.windows.setdefault(phase, Window())
        window.loss += loss  # in place, where it is on the device
        window.weight += weight
        window.gradient_norm = gradient_norm

    def take(self, phase: str) -> tuple[float, float, float]:
        """Summed loss, summed weight and last gradient norm; the window starts anew."""
        window = self.windows.pop(phase, Window())
        return float(window.loss), float(window.weight), float(window.gradient_norm)

    def update_early_stopping(
        self, value: float | None, higher_is_better: bool, min_delta: float
    ) -> None:
        """Counts the evaluations since the watched scalar got better by more than `min_delta`."""
        best = self.stop_best
        if value is not None and (best is None or _gain(value, best, higher_is_better) > min_delta):
            self.stop_best, self.evaluations_without_better = value, 0
        else:
            self.evaluations_without_better += 1

    def update_best(self, value: float | None, higher_is_better: bool) -> bool:
        """Whether the value is better than any before, and keeps it if so; None never is."""
        best = self.best
        if value is None or (best and _gain(value, best[0], higher_is_better) <= 0):
            return False
        self.best = (value, self.step)
        self.best_metrics = {n: v for n, v in self.last.items() if n.startswith("val/")}
        return True

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it; waits for the device."""
        windows = {
            phase: {name: float(value) for name, value in vars(window).items()}
            for phase, window in self.windows.items()
        }
        copies = {"last": dict(self.last), "best_metrics": dict(self.best_metrics)}
        return {**vars(self), "windows": windows, **copies}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainerState:
        """What `to_json` gave; KeyError where a field is missing or unknown."""
        names = {f.name for f in fields(cls)}
        if value.keys() != names:
            raise KeyError(f"trainer state: {sorted(value.keys() ^ names)}")
        windows = {phase: Window(**sums) for phase, sums in value["windows"].items()}
        best = tuple(value["best"]) if value["best"] is not None else None
        return cls(**{**value, "windows": windows, "best": best})


def _gain(value: float, best: float, higher_is_better: bool) -> float:
    return value - best if higher_is_better else best - value
