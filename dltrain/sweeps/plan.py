"""A sweep's file, read and checked: every mistake is told before the first trial."""

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
from dltrain.sweeps.search_space import Dimension, Value, as_tree, branch, read_space, told, tries

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Storage = Literal["sqlite", "journal"]
_METHODS: dict[str, tuple[Registry, str]] = {
    "sampler": (SAMPLERS, "tpe"),
    "pruner": (PRUNERS, "median"),
}
_BEST = "checkpoint.best"


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """What a sweep's file says beside its space, sampler and pruner.

    Attributes:
        metric: The scalar that is to be good, such as `val/accuracy`; the config's
            `checkpoint.best` if not given.
        trials: How many, in all processes together; a grid has all of its own if not given.
        seed: Decides what is drawn.
        storage: sqlite for processes of one machine; journal also for machines that share a file
            system.
    """

    metric: str | None = None
    trials: PositiveInt | None = None
    seed: Seed = 0
    storage: Storage = "sqlite"


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do.

    Attributes:
        config: The file that is swept over.
        overrides: `key=value`, laid over it.
        metric: What is to be good; None is the config's `checkpoint.best`.
        metric_at: Where that is said.
        trials: How many.
        seed: Decides what is drawn.
        storage: What kind.
        sampler: What draws.
        pruner: What ends trials early.
        dimensions: What is drawn.
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
        """What a trial trains: the config with these values; the metric chooses its checkpoint.

        Raises:
            ConfigError: They don't go together.
        """
        at = self.metric_at
        best = branch(_BEST, Scalar(self.metric, str(self.metric), at), at)
        below = Mapping({}, {}, at) if self.metric is None else best
        return load(self.config, self.overrides, as_tree(self.dimensions, values, below))

    @property
    def first(self) -> dict[str, Value]:
        """Values to build something from before anything is drawn."""
        return tries(self.dimensions)[0]

    @property
    def grid(self) -> dict[str, Sequence[Value]]:
        """Every value of each key; of those that have an end of them."""
        grids = {dimension.key: dimension.grid for dimension in self.dimensions}
        return {key: grid for key, grid in grids.items() if grid is not None}

    def identity(self) -> str:
        """What must not change while a sweep goes on: config, metric and space."""
        return "\n".join([self.experiment(self.first).to_yaml(), *map(told, self.dimensions)])

    def no_such_metric(self, message: str) -> ConfigError:
        """An error at the line of the metric."""
        return ConfigError([Problem("metric", message, self.metric_at)])

    def problems(self) -> list[Problem]:
        """What the config says against the bounds and choices."""
        found: list[Problem] = []
        for values in tries(self.dimensions):
            try:
                self.experiment(values)
            except ConfigError as error:
                found += error.problems
        return found


def read_plan(config: Path, file: Path, overrides: Sequence[str] = ()) -> Plan:
    """The plan of a config and a sweep's file; each bound and choice is tried in the config.

    Raises:
        UsageError: A file can't be read.
        ConfigError: Something is wrong; holds every problem.
    """
    problems: list[Problem] = []
    validator = Validator(problems)
    file = find_config(file)
    try:
        tree = read(file, problems)
    except OSError as error:
        raise UsageError(unreadable(file, error)) from None
    tree = replace(tree, position=Position(str(file), 1, 1))
    said = _settings(tree, validator)
    dimensions = _dimensions(tree, validator)
    if said["sampler"] is not None and said["sampler"].name == "grid":
        _refuse_endless(dimensions, validator)
        said["trials"] = said["trials"] or prod(len(one.grid or ()) for one in dimensions)
    elif said["trials"] is None and not suggested("trials", tree.values):
        validator.add("trials", "missing; expected a whole number above 0", tree.position)
    metric_at = tree.values["metric"].position if "metric" in tree.values else tree.position
    plan = Plan(config, tuple(overrides), metric_at=metric_at, dimensions=dimensions, **said)
    problems += plan.problems()
    if not problems and plan.metric is None:
        best = plan.experiment(plan.first).checkpoint.best
        if best is None:
            message = f"missing, and the config has no {_BEST}; expected a scalar like val/accuracy"
            validator.add("metric", message, tree.position)
        plan = replace(plan, metric=best)
    if problems:
        raise ConfigError(problems)
    return plan


def suggested(name: str, keys: Iterable[str]) -> bool:
    """Whether a key is there, or another that was meant to be it: that is one mistake, not two."""
    return any(suggestions(key, [name]) for key in keys)


def _settings(tree: Mapping, validator: Validator) -> dict[str, Any]:
    """All but the space; None where it is wrong."""
    options = typed_options(SweepSettings)
    validator.unknown_keys(tree, (*options, *_METHODS, "space"), "", "key of a sweep")
    said: dict[str, Any] = {
        name: validator.value(tree.values[name], option, name, tree.keys[name])
        if name in tree.values
        else option.option.default
        for name, option in options.items()
    }
    for name, (registry, default) in _METHODS.items():
        node = tree.values.get(name, Scalar(default, default, tree.position))
        said[name] = validator.choice(node, registry, name)
    return said


def _dimensions(tree: Mapping, validator: Validator) -> tuple[Dimension, ...]:
    if "space" not in tree.values:
        if suggested("space", tree.values):
            return ()
        message = "missing; expected keys of the config, each with its values"
        validator.add("space", message, tree.position)
        return ()
    dimensions = read_space(tree.values["space"], validator)
    for dimension in dimensions:
        if dimension.key == _BEST:
            message = "the sweep's metric chooses the best checkpoint"
            validator.add(f"space.{_BEST}", message, dimension.at)
    return dimensions


def _refuse_endless(dimensions: Sequence[Dimension], validator: Validator) -> None:
    """A grid has every combination."""
    for dimension in dimensions:
        path = f"space.{dimension.key}"
        if dimension.grid is None:
            validator.add(path, "a grid needs a `step`, or a `choice`", dimension.at)
        if dimension.when:
            validator.add(f"{path}.when", "a grid has every combination", dimension.at)
