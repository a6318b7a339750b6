"""Dynamic loss scaling for half precision, decided on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from dltrain.core.errors import RunError
from dltrain.training.rollback import OptimizerBackup

SMALLEST_SCALE = 1.0
"""A scale below this shrinks what it is there to enlarge: gradients overflow for another reason."""

KNOWN_CODE = ("dltrain.", "torch.")
"""Whose optimizers keep all that they change in parameters and tensors of their state."""

T = TypeVar("T", bound=Tensor | float | int)


class LossScaling:
    """Decides once a step, for all phases and optimizers, whether the gradients have overflowed.

    A step whose gradients have overflowed changes nothing and lowers the scale (Micikevicius et
    al., "Mixed precision training", 2018, section 3.2). Where asking is free, the loop asks; on a
    GPU the decision stays there, and the loop learns of it while the next step is computed.

    Args:
        scaler: Keeps the scale. Where it is disabled, every method does nothing.
        asks_each_step: Whether to wait for the device at each step.
        describe: Says which checkpoint is left, for the error.
    """

    def __init__(
        self, scaler: torch.amp.GradScaler, asks_each_step: bool, describe: Callable[[], str]
    ) -> None:
        self.scaler = scaler
        self.asks_each_step = asks_each_step
        self.describe = describe
        self._overflowed: Tensor | None = None  # of the step in progress, a bool on the device
        self._copies: list[OptimizerBackup] = []
        self._undecided: list[_Decision] = []

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Divides gradients by the scale, in place."""
        if self.scaler.is_enabled() and gradients:
            factor = self._scale[0].double().reciprocal().float()
            torch._foreach_mul_(list(gradients), factor)  # pyright: ignore[reportPrivateImportUsage]

    def allows(self, norm: Tensor, step: int) -> bool:
        """Whether to go on with a step; False where it is to be skipped.

        Args:
            norm: Of a phase's gradients; one that is not finite is an overflow.
            step: Number of the step, from 1.

        Raises:
            RunError: The scale has collapsed.
        """
        if not self.scaler.is_enabled():
            return True
        if not self.asks_each_step:
            overflowed = ~norm.isfinite()
            before = self._overflowed
            self._overflowed = overflowed if before is None else before | overflowed
            return True
        if math.isfinite(norm):
            return True
        self._adjust(norm.new_ones(()))
        self._refuse_collapse(self.scaler.get_scale(), step)
        return False

    def step(self, optimizer: Optimizer, is_last: bool) -> None:
        """Lets an optimizer step where the gradients have not overflowed.

        Args:
            optimizer: Its gradients are unscaled.
            is_last: Whether its phase is the last one; what the others did is undone where the
                gradients of a later one overflow.
        """
        if self._overflowed is None:
            optimizer.step()
        elif is_last and getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = self._overflowed.float()  # pyright: ignore[reportAttributeAccessIssue]
            optimizer.step()
            del optimizer.found_inf  # pyright: ignore[reportAttributeAccessIssue]
        else:
            copy = OptimizerBackup(optimizer)
            optimizer.step()
            copy.restore_where(self._overflowed)  # the next phase computes with finite weights
            self._copies += [] if is_last else [copy]

    def select(self, value: T, otherwise: Tensor | float) -> T | Tensor:
        """The value, or another where the device knows that the gradients have overflowed."""
        if self._overflowed is None:
            return value
        return torch.where(self._overflowed, otherwise, value)

    def end(self, step: int) -> bool:
        """Ends a step; whether it was taken, False where that is not known yet: see `settle`."""
        overflowed, self._overflowed = self._overflowed, None
        if overflowed is None:
            if self.scaler.is_enabled():
                self._adjust(self._scale[0].new_zeros(()))
            return True
        for copy in self._copies:
            copy.restore_where(overflowed)
        self._copies = []
        self._adjust(overflowed.float())
        self._undecided.append(_Decision(step, overflowed, self._scale[0]))
        return False

    def drain(self) -> int:
        """How many steps were taken of those whose `end` did not know; waits for the last of them.

        Raises:
            RunError: The scale has collapsed.
        """
        undecided, self._undecided = self._undecided, []
        taken = 0
        for decision in undecided:
            overflowed, scale = decision.read()
            taken += not overflowed
            if overflowed:
                self._refuse_collapse(scale, decision.step)
        return taken

    @property
    def _scale(self) -> tuple[Tensor, Tensor]:
        """The scale, float32, and the steps since it was changed, int32; on the device."""
        return self.scaler._check_scale_growth_tracker("step")

    def _adjust(self, overflowed: Tensor) -> None:
        """Lowers the scale after an overflow, 1.0, and raises it after enough steps with 0.0."""
        scale, tracker = self._scale
        torch._amp_update_scale_(  # pyright: ignore[reportPrivateImportUsage]
            scale,
            tracker,
            overflowed.float(),
            self.scaler.get_growth_factor(),
            self.scaler.get_backoff_factor(),
            self.scaler.get_growth_interval(),
        )

    def _refuse_collapse(self, scale: float, step: int) -> None:
        if scale < SMALLEST_SCALE:
            raise RunError(
                f"step {step}: the gradients are not finite, and the loss scale has fallen to "
                f"{scale:g}: half precision can't hold them, or the loss has no finite gradient; "
                f"train with train.precision=bf16 or fp32 ({self.describe()})"
            )


class _Decision:
    """Whether a step has overflowed and the scale after it, on their way to the CPU."""

    def __init__(self, step: int, overflowed: Tensor, scale: Tensor) -> None:
        self.step = step
        values = torch.stack([overflowed.float(), scale.float()])
        self._values = values.to("cpu", non_blocking=True)
        self._arrived: Any = None
        if values.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> tuple[bool, float]:
        """Waits until they are there; the steps after this one are computed meanwhile."""
        if self._arrived is not None:
            self._arrived.synchronize()
        overflowed, scale = self._values.tolist()
        return bool(overflowed), scale


def can_decide_on_device(optimizers: Sequence[Optimizer]) -> bool:
    """Whether a step of these optimizers can be undone without waiting for the device."""
    return all(type(optimizer).__module__.startswith(KNOWN_CODE) for optimizer in optimizers)
