"""Optuna's samplers, which draw values, and pruners, which stop trials early."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from dltrain.core.option_types import NonNegativeInt, PositiveInt
from dltrain.core.registry import Registry

SAMPLERS = Registry("sampler", "context")
PRUNERS = Registry("pruner", "evaluations")

# Optuna's types. A registry reads annotations before Optuna is imported to build one.
Sampler: TypeAlias = Any
Pruner: TypeAlias = Any
Reduction = Annotated[int, Field(ge=2)]


@dataclass(frozen=True)
class SamplerContext:
    """The context in which a sampler is built.

    Attributes:
        seed: Random seed of this trial, 32 bits.
        sweep_seed: Random seed of the sweep, the same for all trials.
        grid: Every value of each key; without keys whose values are continuous.
    """

    seed: int
    sweep_seed: int
    grid: Mapping[str, Sequence[float | int | str]]


@SAMPLERS.register
def tpe(
    context: SamplerContext, /, *, startup: PositiveInt = 10, multivariate: bool = False
) -> Sampler:
    """Tree-structured Parzen estimator: samples near values that did well.

    Args:
        startup: Number of initial trials with random values.
        multivariate: Whether to model keys jointly instead of independently.
    """
    from optuna.samplers import TPESampler

    # A running trial counts as a bad one, so that others are not sampled close to it.
    return TPESampler(
        n_startup_trials=startup, multivariate=multivariate, constant_liar=True, seed=context.seed
    )


@SAMPLERS.register("random")
def random_(context: SamplerContext, /) -> Sampler:
    """Independent random values."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=context.seed)


@SAMPLERS.register
def grid(context: SamplerContext, /) -> Sampler:
    """Every combination once, in a random order."""
    from optuna.samplers import GridSampler

    return GridSampler(context.grid, seed=context.sweep_seed % 2**32)


@SAMPLERS.register
def cmaes(context: SamplerContext, /, *, startup: PositiveInt = 1) -> Sampler:
    """Covariance matrix adaptation (CMA-ES); choices are sampled at random.

    Args:
        startup: Number of initial trials with random values.
    """
    from optuna.samplers import CmaEsSampler, RandomSampler

    return CmaEsSampler(
        n_startup_trials=startup,
        independent_sampler=RandomSampler(seed=context.seed),
        warn_independent_sampling=False,
        seed=context.seed,
    )


@PRUNERS.register
def none(_evaluations: int, /) -> Pruner:
    """No pruning: every trial is trained to its end."""
    from optuna.pruners import NopPruner

    return NopPruner()


@PRUNERS.register
def median(
    _evaluations: int, /, *, startup: NonNegativeInt = 5, warmup: NonNegativeInt = 0
) -> Pruner:
    """Stops a trial whose best value so far is worse than the median at the same evaluation.

    Args:
        startup: Number of completed trials before the first one is stopped.
        warmup: Number of evaluations of a trial before it can be stopped.
    """
    from optuna.pruners import MedianPruner

    return MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup + 1)


@PRUNERS.register
def hyperband(
    evaluations: int, /, *, shortest: PositiveInt = 1, reduction: Reduction = 3
) -> Pruner:
    """Successive halving in several brackets: many short trials and a few long ones.

    Args:
        shortest: Minimum number of evaluations of a trial.
        reduction: One in this many trials continues at each halving.
    """
    from optuna.pruners import HyperbandPruner

    return HyperbandPruner(
        min_resource=shortest,
        max_resource=max(shortest, evaluations),
        reduction_factor=reduction,
    )


@contextmanager
def no_experimental_warnings() -> Iterator[None]:
    """Suppress Optuna's warnings about experimental features, which users can't act on."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
