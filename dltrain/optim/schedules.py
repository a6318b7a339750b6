"""Learning-rate schedules: the factor of the base learning rate as a pure function of progress.

Progress is the fraction of all steps already done: 0 at the first step, and below 1 at the last. A
pure function has no state to save, so a resumed run needs none.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from dltrain.core.option_types import Fraction
from dltrain.core.registry import SCHEDULES

Schedule = Callable[[float], float]

WARMUP_START = 0.01
"""Initial factor of a linear warm-up; a learning rate of exactly 0 would waste the first step."""


@SCHEDULES.register
def constant(*, warmup: Fraction = 0.0) -> Schedule:
    """Constant learning rate.

    Args:
        warmup: Fraction of the run in which the learning rate rises linearly to its base value.

    Example:
        >>> factor = constant(warmup=0.1)
        >>> [round(factor(progress), 3) for progress in (0.0, 0.5, 0.99)]
        [0.01, 1.0, 1.0]
    """
    return _after_warmup(warmup, lambda progress: 1.0)


@SCHEDULES.register
def linear(*, final: Fraction = 0.0, warmup: Fraction = 0.0) -> Schedule:
    """Linear decay.

    Args:
        final: Factor at the end of the run.
        warmup: Fraction of the run in which the learning rate rises linearly to its base value.

    Example:
        >>> factor = linear(final=0.1)
        >>> [round(factor(progress), 3) for progress in (0.0, 0.5, 0.99)]
        [1.0, 0.55, 0.109]
    """
    return _after_warmup(warmup, lambda progress: 1 + (final - 1) * progress)


@SCHEDULES.register
def cosine(*, final: Fraction = 0.0, warmup: Fraction = 0.0) -> Schedule:
    """Decay along half a cosine (Loshchilov and Hutter, 2017, without restarts).

    Args:
        final: Factor at the end of the run.
        warmup: Fraction of the run in which the learning rate rises linearly to its base value.

    Example:
        >>> factor = cosine()
        >>> [round(factor(progress), 3) for progress in (0.0, 0.5, 0.99)]
        [1.0, 0.5, 0.0]
    """
    return _after_warmup(warmup, lambda progress: _half_cosine(1.0, final, progress))


@SCHEDULES.register
def one_cycle(
    *, warmup: Fraction = 0.3, start: Fraction = 0.04, final: Fraction = 4e-6
) -> Schedule:
    """Rise along half a cosine, then decay along another (Smith and Topin, 2019).

    Args:
        warmup: Fraction of the run in which the learning rate rises to its base value.
        start: Factor at the start of the run.
        final: Factor at the end of the run.

    Example:
        >>> factor = one_cycle(warmup=0.5)
        >>> [round(factor(progress), 3) for progress in (0.0, 0.5, 0.99)]
        [0.04, 1.0, 0.001]
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
    """Decay by a factor at each milestone.

    Args:
        milestones: Fractions of the run, warm-up included, at which the learning rate decays.
        gamma: Factor of each decay.
        warmup: Fraction of the run in which the learning rate rises linearly to its base value.

    Example:
        >>> factor = step(milestones=(0.5, 0.9))
        >>> [round(factor(progress), 3) for progress in (0.0, 0.5, 0.99)]
        [1.0, 0.1, 0.01]
    """

    def factor(progress: float) -> float:
        return gamma ** sum(progress >= milestone for milestone in milestones)

    return lambda progress: factor(progress) * _warmup_factor(warmup, progress)


def _warmup_factor(warmup: float, progress: float) -> float:
    """Return the factor of a linear warm-up, from `WARMUP_START` to 1."""
    if warmup == 0:
        return 1.0
    return min(1.0, WARMUP_START + (1 - WARMUP_START) * progress / warmup)


def _after_warmup(warmup: float, curve: Schedule) -> Schedule:
    """Return a linear warm-up followed by all of `curve`, where `curve(0)` is 1."""

    def factor(progress: float) -> float:
        if progress <= warmup:
            return _warmup_factor(warmup, progress)
        return curve((progress - warmup) / (1 - warmup))

    return factor


def _half_cosine(begin: float, end: float, progress: float) -> float:
    """Interpolate from `begin` to `end` along half a cosine."""
    return end + (begin - end) * (1 + math.cos(math.pi * progress)) / 2
