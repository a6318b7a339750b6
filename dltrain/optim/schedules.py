"""Learning-rate schedules: the factor of the base rate as a pure function of progress.

Progress is the share of all steps already done: 0 at the first step, and below 1 at the last. A
pure function has no state to save, and a resumed run goes on where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from dltrain.core.option_types import Fraction
from dltrain.core.registry import SCHEDULES

Schedule = Callable[[float], float]

WARMUP_START = 0.01
"""Where a linear warm-up begins; a rate of exactly 0 would waste the first step."""


@SCHEDULES.register
def constant(*, warmup: Fraction = 0.0) -> Schedule:
    """The base rate throughout.

    Args:
        warmup: Share of the run in which the rate rises linearly to the base rate.
    """
    return _after_warmup(warmup, lambda progress: 1.0)


@SCHEDULES.register
def linear(*, final: Fraction = 0.0, warmup: Fraction = 0.0) -> Schedule:
    """Falls on a straight line.

    Args:
        final: Factor at the end of the run.
        warmup: Share of the run in which the rate rises linearly to the base rate.
    """
    return _after_warmup(warmup, lambda progress: 1 + (final - 1) * progress)


@SCHEDULES.register
def cosine(*, final: Fraction = 0.0, warmup: Fraction = 0.0) -> Schedule:
    """Falls along half a cosine (Loshchilov and Hutter, 2017, without restarts).

    Args:
        final: Factor at the end of the run.
        warmup: Share of the run in which the rate rises linearly to the base rate.
    """
    return _after_warmup(warmup, lambda progress: _half_cosine(1.0, final, progress))


@SCHEDULES.register
def one_cycle(
    *, warmup: Fraction = 0.3, start: Fraction = 0.04, final: Fraction = 4e-6
) -> Schedule:
    """Rises along half a cosine, then falls along another (Smith and Topin, 2019).

    Args:
        warmup: Share of the run in which the rate rises to the base rate.
        start: Factor at the start of the run.
        final: Factor at the end of the run.
    """

    def factor(progress: float) -> float:
        if warmup > 0 and progress <= warmup:
            return _half_cosine(start, 1.0, progress / warmup)
        return _half_cosine(1.0, final, (progress - warmup) / (1 - warmup))

    return factor


@SCHEDULES.register
def step(
    *,
    milestones: tuple[Fraction, ...] = (0.5, 0.75),
    gamma: Fraction = 0.1,
    warmup: Fraction = 0.0,
) -> Schedule:
    """Multiplied by gamma at each milestone.

    Args:
        milestones: Shares of the run, the warm-up included, at which the rate falls.
        gamma: What the rate is multiplied by at each milestone.
        warmup: Share of the run in which the rate rises linearly to the base rate.
    """

    def factor(progress: float) -> float:
        return gamma ** sum(progress >= milestone for milestone in milestones)

    return lambda progress: factor(progress) * _warmup_factor(warmup, progress)


def _warmup_factor(warmup: float, progress: float) -> float:
    """From `WARMUP_START` up to 1 in the first `warmup` of the run."""
    if warmup == 0:
        return 1.0
    return min(1.0, WARMUP_START + (1 - WARMUP_START) * progress / warmup)


def _after_warmup(warmup: float, curve: Schedule) -> Schedule:
    """A linear warm-up, then the whole of `curve` in the rest of the run; `curve(0)` is 1."""

    def factor(progress: float) -> float:
        if progress <= warmup:
            return _warmup_factor(warmup, progress)
        return curve((progress - warmup) / (1 - warmup))

    return factor


def _half_cosine(begin: float, end: float, progress: float) -> float:
    """From `begin` to `end`, flat at both."""
    return end + (begin - end) * (1 + math.cos(math.pi * progress)) / 2
