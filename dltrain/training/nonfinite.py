"""What happens when a loss or a gradient is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from dltrain.core.errors import RunError
from dltrain.training.state import TrainerState


class NonFiniteGuard:
    """Asks at each step whether the loss is finite, where asking does not make the loop wait.

    On a CPU the answer is there at once, and a bad step is never taken. On a GPU with
    `on_nonfinite: stop` the first bad step is remembered on the device, and `check` reads it.

    Args:
        device: Where the loss is.
        on_nonfinite: Stop the run, or skip the step.
        max_skipped: Maximum number of consecutive skipped steps.
        describe: Says which checkpoint is left, for the error.
        values: How many a step has, one a phase.
        clipped: Whether gradients are clipped already, so that an error does not recommend it.
        half_precision: Whether a step computes in 16 bits, which is then among the likely causes.
    """

    def __init__(
        self,
        device: torch.device,
        on_nonfinite: Literal["stop", "skip"],
        max_skipped: int,
        describe: Callable[[], str],
        values: int = 1,
        *,
        clipped: bool = False,
        half_precision: bool = False,
    ) -> None:
        self.max_skipped: int = max_skipped if on_nonfinite == "skip" else 0
        self.describe = describe
        self.clipped = clipped
        self.half_precision = half_precision
        self.asks_each_step: bool = device.type == "cpu" or on_nonfinite == "skip"
        self._values, self._begun = values, 0
        self._sum = torch.zeros((), device=device)  # 0 times every value: NaN after a bad one
        self._good = torch.zeros((), dtype=torch.int64, device=device)

    def allows(self, state: TrainerState, value: Tensor) -> bool:
        """Whether the step after `state.step` may be taken; False where it is to be skipped.

        The trainer sets `state.skipped_in_a_row` to 0 once all phases of a step are good.

        Raises:
            RunError: The value is not finite, and the run is to stop.
        """
        if not self.asks_each_step:
            self._sum.add_(value, alpha=0)
            self._good += self._sum == 0
            return True
        if math.isfinite(value):
            return True
        state.skipped += 1
        state.skipped_in_a_row += 1
        if state.skipped_in_a_row > self.max_skipped:
            raise self._error(state.step + 1)
        return False

    def check(self) -> None:
        """Waits for the device.

        Raises:
            RunError: A step since the last time was bad.
        """
        if not self.asks_each_step and math.isnan(self._sum):
            raise self._error(self._begun + int(self._good) // self._values + 1)

    def start(self, step: int) -> None:
        """The next value is of the step after this one."""
        self._begun = step
        self._sum.zero_()
        self._good.zero_()

    def _error(self, step: int) -> RunError:
        after = f" after {self.max_skipped} skipped steps" if self.max_skipped else ""
        causes = ["a learning rate that is too high", "inputs or targets that are not finite"]
        causes += ["half precision"] * self.half_precision
        remedy = "a smaller optimizer.lr" + " or train.clip_norm=1.0" * (not self.clipped)
        return RunError(
            f"step {step}: the loss or its gradient is not finite{after}; likely causes: "
            f"{', '.join(causes[:-1])} or {causes[-1]}; try {remedy} ({self.describe()})"
        )
