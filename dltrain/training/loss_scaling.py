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
"""Minimum scale. Gradients that overflow with a smaller one do so for another reason."""

KNOWN_CODE = ("dltrain.", "torch.")
"""Packages whose optimizers change only parameters and the tensors of their state."""

T = TypeVar("T", bound=Tensor | float | int)


class LossScaling:
    """Decides at each step, for all phases and optimizers, whether the gradients have overflowed.

    A step whose gradients have overflowed changes no weight and lowers the scale (Micikevicius et
    al., "Mixed precision training", 2018, section 3.2). On a GPU the decision remains on the
    device, and the CPU reads it while the next step is computed.

    Args:
        scaler: Scaler with the scale. If it is disabled, no method has an effect.
        asks_each_step: Whether to read the decision at once, which is a device sync.
        describe: Function that names the last checkpoint, for the error message.
    """

    def __init__(
        self, scaler: torch.amp.GradScaler, asks_each_step: bool, describe: Callable[[], str]
    ) -> None:
        self.scaler = scaler
        self.asks_each_step = asks_each_step
        self.describe = describe
        self._overflowed: Tensor | None = None  # bool on the device, for the current step
        self._copies: list[OptimizerBackup] = []
        self._undecided: list[_Decision] = []

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Divide gradients by the scale, in place."""
        if self.scaler.is_enabled() and gradients:
            factor = self._scale[0].double().reciprocal().float()
            torch._foreach_mul_(list(gradients), factor)  # pyright: ignore[reportPrivateImportUsage]

    def allows(self, norm: Tensor, step: int) -> bool:
        """Return False if the step is known to have overflowed and must be skipped.

        Args:
            norm: Norm of the gradients of a phase; it is not finite if they have overflowed.
            step: Number of the step, from 1.

        Raises:
            RunError: The scale has fallen below its minimum.
        """
        if not self.scaler.is_enabled():
            return True
        if not self.asks_each_step:
            overflowed = ~norm.isfinite()
            before = self._overflowed
            self._overflowed = overflowed if before is None else before | overflowed
            return True
        if math.isfinite(norm):  # device sync
            return True
        self._adjust(norm.new_ones(()))
        self._refuse_collapse(self.scaler.get_scale(), step)
        return False

    def step(self, optimizer: Optimizer, is_last: bool) -> None:
        """Step an optimizer, without effect if the gradients have overflowed.

        Args:
            optimizer: Optimizer with unscaled gradients.
            is_last: Whether its phase is the last one. Updates of other phases are undone if the
                gradients of a later phase overflow.
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
            copy.restore_where(self._overflowed)  # the next phase needs finite weights
            self._copies += [] if is_last else [copy]

    def select(self, value: T, otherwise: Tensor | float) -> T | Tensor:
        """Return a value, or `otherwise` if the gradients have overflowed; without device sync."""
        if self._overflowed is None:
            return value
        return torch.where(self._overflowed, otherwise, value)

    def end(self, step: int) -> bool:
        """End a step, and return whether it was taken; False if only `drain` will know."""
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
        """Return how many undecided steps were taken. Device sync for the last of them.

        Raises:
            RunError: The scale has fallen below its minimum.
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
        """Scale, float32, and number of steps since it was changed, int32; on the device."""
        return self.scaler._check_scale_growth_tracker("step")

    def _adjust(self, overflowed: Tensor) -> None:
        """Lower the scale if `overflowed` is 1.0; raise it after enough steps with 0.0."""
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
    """Overflow of a step and the scale after it, copied to the CPU asynchronously."""

    def __init__(self, step: int, overflowed: Tensor, scale: Tensor) -> None:
        self.step = step
        values = torch.stack([overflowed.float(), scale.float()])
        self._values = values.to("cpu", non_blocking=True)
        self._arrived: Any = None
        if values.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> tuple[bool, float]:
        """Wait for the copy, while the device computes the following steps."""
        if self._arrived is not None:
            self._arrived.synchronize()  # device sync, up to this step
        overflowed, scale = self._values.tolist()
        return bool(overflowed), scale


def can_decide_on_device(optimizers: Sequence[Optimizer]) -> bool:
    """Return whether steps of these optimizers can be undone without a device sync."""
    return all(type(optimizer).__module__.startswith(KNOWN_CODE) for optimizer in optimizers)
