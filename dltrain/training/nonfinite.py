"""Detection of losses and gradients that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from dltrain.core.errors import RunError
from dltrain.training.state import TrainerState


class NonFiniteGuard:
    """Checks that the loss and the gradients of each step are finite.

    On a CPU each step is checked at once, and a bad step never changes weights. On a GPU with
    `on_nonfinite: stop` the first bad step is remembered on the device, and `check` reads it.

    Args:
        device: Device of the loss.
        on_nonfinite: Whether to stop the run or to skip the step.
        max_skipped: Maximum number of consecutive skipped steps.
        describe: Function that names the last checkpoint, for the error message.
        values: Number of values per step, one per phase.
        clipped: Whether gradients are clipped; if not, the error recommends it.
        half_precision: Whether steps compute in 16 bits, which the error names as a likely cause.
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
        self._sum = torch.zeros((), device=device)  # sum of 0 * value: NaN after a bad value
        self._good = torch.zeros((), dtype=torch.int64, device=device)

    def allows(self, state: TrainerState, value: Tensor) -> bool:
        """Return False if the step after `state.step` must be skipped.

        The caller sets `state.skipped_in_a_row` to 0 once all phases of a step are finite.

        Raises:
            RunError: The value is not finite, and the run must stop.
        """
        if not self.asks_each_step:
            self._sum.add_(value, alpha=0)
            self._good += self._sum == 0
            return True
        if math.isfinite(value):  # device sync on a GPU, only with `on_nonfinite: skip`
            return True
        state.skipped += 1
        state.skipped_in_a_row += 1
        if state.skipped_in_a_row > self.max_skipped:
            raise self._error(state.step + 1)
        return False

    def check(self) -> None:
        """Read the device's record of bad steps. Device sync on a GPU.

        Raises:
            RunError: A value of a step since the last call was not finite.
        """
        if not self.asks_each_step and math.isnan(self._sum):
            raise self._error(self._begun + int(self._good) // self._values + 1)

    def start(self, step: int) -> None:
        """Restart the record after `step` steps."""
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
