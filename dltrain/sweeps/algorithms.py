"""What a sweep may ask Optuna for: samplers, which draw values, and pruners, which end trials."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from dltrain.core.option_types import NonNegativeInt, PositiveInt
from dltrain.core.registry import Registry

SAMPLERS = Registry("sampler", "draw")
PRUNERS = Registry("pruner", "evaluations")

# Optuna's own types; it is imported where one is built, and a registry reads annotations before.
Sampler: TypeAlias = Any
Pruner: TypeAlias = Any
Reduction = Annotated[int, Field(ge=2)]


@dataclass(frozen=True)
class Draw:
    """What a sampler is made for.

    Attributes:
        seed: Of this trial; 32 bits.
        first_seed: The same for all trials.
        grid: Every value of each key; empty where there is no end of them.
    """

    seed: int
    first_seed: int
    grid: Mapping[str, Sequence[float | int | str]]


@SAMPLERS.register
def tpe(draw: Draw, /, *, startup: PositiveInt = 10, multivariate: bool = False) -> Sampler:
    """Tree-structured Parzen estimator: draws near what was good.

    Args:
        startup: Trials that are drawn at random before.
        multivariate: Whether to look at keys together, instead of at each by itself.
    """
    from optuna.samplers import TPESampler

    # A trial that still runs counts as a bad one, so that others are not drawn beside it.
    return TPESampler(
        n_startup_trials=startup, multivariate=multivariate, constant_liar=True, seed=draw.seed
    )


@SAMPLERS.register("random")
def random_(draw: Draw, /) -> Sampler:
    """Independent draws."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=draw.seed)


@SAMPLERS.register
def grid(draw: Draw, /) -> Sampler:
    """Every combination once, in a random order."""
    from optuna.samplers import GridSampler

    return GridSampler(draw.grid, seed=draw.first_seed % 2**32)


@SAMPLERS.register
def cmaes(draw: Draw, /, *, startup: PositiveInt = 1) -> Sampler:
    """Covariance matrix adaptation; choices are drawn at random.

    Args:
        startup: Trials that are drawn at random before.
    """
    from optuna.samplers import CmaEsSampler, RandomSampler

    return CmaEsSampler(
        n_startup_trials=startup,
        independent_sampler=RandomSampler(seed=draw.seed),
        warn_independent_sampling=False,
        seed=draw.seed,
    )


@PRUNERS.register
def none(_evaluations: int, /) -> Pruner:
    """Every trial is trained to its end."""
    from optuna.pruners import NopPruner

    return NopPruner()


@PRUNERS.register
def median(
    _evaluations: int, /, *, startup: NonNegativeInt = 5, warmup: NonNegativeInt = 0
) -> Pruner:
    """Ends a trial whose best value so far is worse than the median of the others' then.

    Args:
        startup: Trials that must have come to their end before.
        warmup: Evaluations of a trial that are not looked at.
    """
    from optuna.pruners import MedianPruner

    return MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup + 1)


@PRUNERS.register
def hyperband(
    evaluations: int, /, *, shortest: PositiveInt = 1, reduction: Reduction = 3
) -> Pruner:
    """Successive halving in several brackets: few evaluations for many trials, many for few.

    Args:
        shortest: Evaluations that every trial has.
        reduction: One trial of so many goes on.
    """
    from optuna.pruners import HyperbandPruner

    return HyperbandPruner(
        min_resource=shortest,
        max_resource=max(shortest, evaluations),
        reduction_factor=reduction,
    )


@contextmanager
def settled() -> Iterator[None]:
    """Optuna calls some of what is used here experimental; that is for us to know."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
