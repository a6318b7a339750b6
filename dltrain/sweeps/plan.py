"""Read and validate a sweep's file before the first trial."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from dltrain.config import ConfigError, Experiment, Position, Problem, load
from dltrain.config.options import typed_options
from dltrain.config.parse import read
from dltrain.config.problems import suggestions
from dltrain.config.shipped import find_config, unreadable
from dltrain.config.tree import Mapping, Scalar
from dltrain.config.validate import Validator
from dltrain.core.errors import UsageError
from dltrain.core.option_types import PositiveInt
from dltrain.core.registry import Choice, Registry
from dltrain.sweeps.algorithms import PRUNERS, SAMPLERS
from dltrain.sweeps.search_space import (
    Dimension,
    Value,
    boundary_values,
    describe,
    nest,
    read_space,
    to_tree,
)

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Storage = Literal["sqlite", "journal"]
_METHODS: dict[str, tuple[Registry, str]] = {
    "sampler": (SAMPLERS, "tpe"),
    "pruner": (PRUNERS, "median"),
}
_BEST = "checkpoint.best"


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """Settings of a sweep other than its space, sampler and pruner.

    Attributes:
        metric: Scalar to optimize, such as `val/accuracy` (default: the config's
            `checkpoint.best`).
        trials: Number of trials over all processes (default for a grid: all combinations).
        seed: Random seed of the sampler.
        storage: sqlite for processes on one machine, journal for machines that share a file system.
    """

    metric: str | None = None
    trials: PositiveInt | None = None
    seed: Seed = 0
    storage: Storage = "sqlite"


@dataclass(frozen=True)
class Plan:
    """A validated sweep.

    Attributes:
        config: Config file whose values are searched.
        overrides: Texts `key=value` that override its values.
        metric: Scalar to optimize; None for the config's `checkpoint.best`.
        metric_at: Position of the metric in the sweep's file.
        trials: Number of trials.
        seed: Random seed of the sampler.
        storage: Kind of Optuna storage.
        sampler: Sampler that draws values.
        pruner: Pruner that stops trials early.
        dimensions: Search space.
    """

    config: Path
    overrides: tuple[str, ...]
    metric: str | None
    metric_at: Position
    trials: int
    seed: int
    storage: Storage
    sampler: Choice
    pruner: Choice
    dimensions: tuple[Dimension, ...]

    def experiment(self, values: MappingOf[str, Value]) -> Experiment:
        """Load the config of a trial, whose best checkpoint is selected by the sweep's metric.

        Raises:
            ConfigError: The values are not a valid config.
        """
        at = self.metric_at
        best = nest(_BEST, Scalar(self.metric, str(self.metric), at), at)
        below = Mapping({}, {}, at) if self.metric is None else best
        return load(self.config, self.overrides, to_tree(self.dimensions, values, below))

    @property
    def first_values(self) -> dict[str, Value]:
        """Return the first value of each dimension, to build a trainer before sampling."""
        return boundary_values(self.dimensions)[0]

    @property
    def grid(self) -> dict[str, Sequence[Value]]:
        """Return every value of each key that has a finite number of them."""
        grids = {dimension.key: dimension.grid for dimension in self.dimensions}
        return {key: grid for key, grid in grids.items() if grid is not None}

    def identity(self) -> str:
        """Return what must not change when a sweep is resumed: config, metric and space."""
        config = self.experiment(self.first_values).to_yaml()
        return "\n".join([config, *map(describe, self.dimensions)])

    def no_such_metric(self, message: str) -> ConfigError:
        """Return an error at the line of the metric."""
        return ConfigError([Problem("metric", message, self.metric_at)])

    def problems(self) -> list[Problem]:
        """Return the config's problems with the bounds and choices."""
        found: list[Problem] = []
        for values in boundary_values(self.dimensions):
            try:
                self.experiment(values)
            except ConfigError as error:
                found += error.problems
        return found


def read_plan(config: Path, file: Path, overrides: Sequence[str] = ()) -> Plan:
    """Read a sweep's file, and validate the config with each bound and choice.

    Raises:
        UsageError: A file can't be read.
        ConfigError: A file is invalid; holds every problem.
    """
    problems: list[Problem] = []
    validator = Validator(problems)
    file = find_config(file)
    try:
        tree = read(file, problems)
    except OSError as error:
        raise UsageError(unreadable(file, error)) from None
    tree = replace(tree, position=Position(str(file), 1, 1))
    settings = _settings(tree, validator)
    dimensions = _dimensions(tree, validator)
    if settings["sampler"] is not None and settings["sampler"].name == "grid":
        _require_finite(dimensions, validator)
        settings["trials"] = settings["trials"] or prod(len(d.grid or ()) for d in dimensions)
    elif settings["trials"] is None and not has_similar("trials", tree.values):
        validator.add("trials", "missing; expected a whole number above 0", tree.position)
    metric_at = tree.values["metric"].position if "metric" in tree.values else tree.position
    plan = Plan(config, tuple(overrides), metric_at=metric_at, dimensions=dimensions, **settings)
    problems += plan.problems()
    if not problems and plan.metric is None:
        best = plan.experiment(plan.first_values).checkpoint.best
        if best is None:
            message = f"missing, and the config has no {_BEST}; expected a scalar like val/accuracy"
            validator.add("metric", message, tree.position)
        plan = replace(plan, metric=best)
    if problems:
        raise ConfigError(problems)
    return plan


def has_similar(name: str, keys: Iterable[str]) -> bool:
    """Return whether one of the keys is a misspelling of `name`, which is reported once."""
    return any(suggestions(key, [name]) for key in keys)


def _settings(tree: Mapping, validator: Validator) -> dict[str, Any]:
    """Read everything but the space; None for an invalid value."""
    options = typed_options(SweepSettings)
    validator.unknown_keys(tree, (*options, *_METHODS, "space"), "", "key of a sweep")
    settings: dict[str, Any] = {
        name: validator.value(tree.values[name], option, name, tree.keys[name])
        if name in tree.values
        else option.option.default
        for name, option in options.items()
    }
    for name, (registry, default) in _METHODS.items():
        node = tree.values.get(name, Scalar(default, default, tree.position))
        settings[name] = validator.choice(node, registry, name)
    return settings


def _dimensions(tree: Mapping, validator: Validator) -> tuple[Dimension, ...]:
    if "space" not in tree.values:
        if has_similar("space", tree.values):
            return ()
        message = "missing; expected keys of the config with their values"
        validator.add("space", message, tree.position)
        return ()
    dimensions = read_space(tree.values["space"], validator)
    for dimension in dimensions:
        if dimension.key == _BEST:
            message = "not allowed: the sweep's metric selects the best checkpoint"
            validator.add(f"space.{_BEST}", message, dimension.at)
    return dimensions


def _require_finite(dimensions: Sequence[Dimension], validator: Validator) -> None:
    """Add a problem for each dimension that a grid can't enumerate."""
    for dimension in dimensions:
        path = f"space.{dimension.key}"
        if dimension.grid is None:
            validator.add(path, "a grid needs a `step`, or a `choice`", dimension.at)
        if dimension.when:
            validator.add(f"{path}.when", "not supported by a grid", dimension.at)
