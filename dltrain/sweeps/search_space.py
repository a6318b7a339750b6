"""The search space of a sweep: keys of the config, each with a range or with choices."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeAlias

from dltrain.config.compose import merge_keys
from dltrain.config.options import TypedOption
from dltrain.config.problems import Position
from dltrain.config.tree import List, Mapping, Node, Scalar, plain, resolve
from dltrain.config.validate import Validator, one_of, shown
from dltrain.core.option_types import PositiveFloat, PositiveInt
from dltrain.core.registry import REQUIRED, Option

if TYPE_CHECKING:
    from optuna.trial import Trial

Value: TypeAlias = float | int | str
"""Value of a dimension; the label of a choice."""
When: TypeAlias = MappingOf[str, frozenset[str]]
"""Labels by key of other dimensions; for each key, one of the labels must be sampled."""

_BOUNDS = {
    "float": TypedOption(Option("float", tuple[float, float], REQUIRED, "")),
    "int": TypedOption(Option("int", tuple[int, int], REQUIRED, "")),
}
_STEPS = {
    "float": TypedOption(Option("step", PositiveFloat, REQUIRED, "")),
    "int": TypedOption(Option("step", PositiveInt, REQUIRED, "")),
}
_LOG = TypedOption(Option("log", bool, False, ""))
_KEYS = {
    "float": ("float", "log", "step", "when"),
    "int": ("int", "log", "step", "when"),
    "choice": ("choice", "when"),
}


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, inclusive.

    Attributes:
        key: Dotted key of the config.
        at: Position of the key in the file.
        low: Lower bound.
        high: Upper bound.
        log: Whether to sample on a logarithmic scale.
        step: Distance between values; None for any value. The default for integers is 1.
        when: Condition on other dimensions under which this one is sampled.
        bounds_at: Positions of the bounds, for messages.
    """

    key: str
    at: Position
    low: float | int
    high: float | int
    log: bool
    step: float | int | None
    when: When
    bounds_at: tuple[Position, Position]

    def sample(self, trial: Trial) -> Value:
        """Return the trial's value of this key, sampled if it has none yet."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            step = int(self.step or 1)
            return trial.suggest_int(self.key, self.low, self.high, step=step, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def node(self, value: Value) -> Node:
        """Return the value as a node, positioned at the bound that it equals."""
        at = self.bounds_at[1] if value == self.high else self.bounds_at[0]
        return Scalar(value, repr(value), at)

    @property
    def extremes(self) -> tuple[Value, ...]:
        """Return the values to validate before sampling."""
        return (self.low, self.high)

    @property
    def grid(self) -> list[Value] | None:
        """Return every value; None for a continuous range."""
        if self.step is None:
            return None
        count = round((self.high - self.low) / self.step)
        return [self.low + number * self.step for number in range(count + 1)]


@dataclass(frozen=True)
class Choices:
    """A list of values, labelled by their text on the command line.

    Attributes:
        key: Dotted key of the config.
        at: Position of the key in the file.
        nodes: Values by label.
        when: Condition on other dimensions under which this one is sampled.
    """

    key: str
    at: Position
    nodes: MappingOf[str, Node]
    when: When

    def sample(self, trial: Trial) -> Value:
        """See `Range.sample`."""
        return trial.suggest_categorical(self.key, list(self.nodes))

    def node(self, value: Value) -> Node:
        """Return the value of a label, with its position in the file."""
        return self.nodes[str(value)]

    @property
    def extremes(self) -> tuple[Value, ...]:
        """Return all labels."""
        return tuple(self.nodes)

    @property
    def grid(self) -> list[Value] | None:
        """Return all labels."""
        return list(self.nodes)


Dimension: TypeAlias = Range | Choices


def applies(dimension: Dimension, values: MappingOf[str, Value]) -> bool:
    """Return whether a dimension is sampled, given the values of those before it."""
    return all(values.get(key) in labels for key, labels in dimension.when.items())


def sample(dimensions: Sequence[Dimension], trial: Trial) -> dict[str, Value]:
    """Sample a value of each dimension that applies, by key."""
    values: dict[str, Value] = {}
    for dimension in dimensions:
        if applies(dimension, values):
            values[dimension.key] = dimension.sample(trial)
    return values


def boundary_values(dimensions: Sequence[Dimension]) -> list[dict[str, Value]]:
    """Return sets of values that together contain every choice and every bound.

    The first set has the first value of each dimension.
    """
    by_key = {dimension.key: dimension for dimension in dimensions}
    found = [_first_values(dimensions, {})]
    for dimension in dimensions:
        needed = _condition_values(dimension, by_key)
        found += [
            _first_values(dimensions, {**needed, dimension.key: value})
            for value in dimension.extremes
        ]
    return found


def _first_values(
    dimensions: Sequence[Dimension], fixed: MappingOf[str, Value]
) -> dict[str, Value]:
    """Return the fixed values, and the first value of each other dimension that applies."""
    values: dict[str, Value] = {}
    for dimension in dimensions:
        if applies(dimension, values):
            values[dimension.key] = fixed.get(dimension.key, dimension.extremes[0])
    return values


def _condition_values(dimension: Dimension, by_key: MappingOf[str, Dimension]) -> dict[str, Value]:
    """Return values of other dimensions with which a dimension applies."""
    needed: dict[str, Value] = {}
    for key, labels in dimension.when.items():
        needed |= _condition_values(by_key[key], by_key)
        needed[key] = next(label for label in by_key[key].extremes if label in labels)
    return needed


def to_tree(
    dimensions: Sequence[Dimension], values: MappingOf[str, Value], below: Mapping
) -> Mapping:
    """Merge the values over a config's tree, with their positions in the sweep's file."""
    trees = [
        nest(dimension.key, dimension.node(values[dimension.key]), dimension.at)
        for dimension in dimensions
        if dimension.key in values
    ]
    return reduce(merge_keys, trees, below)


def describe(dimension: Dimension) -> str:
    """Describe a dimension in one line, without its position in the file."""
    fields = {
        name: sorted(value) if name == "nodes" else value
        for name, value in vars(dimension).items()
        if name not in ("at", "bounds_at", "when")
    }
    return repr(
        {**fields, "when": {key: sorted(dimension.when[key]) for key in sorted(dimension.when)}}
    )


def nest(key: str, value: Node, at: Position) -> Mapping:
    """Return the tree of a dotted key and its value."""
    *parents, last = key.split(".")
    tree = Mapping({last: value}, {last: at}, at)
    for segment in reversed(parents):
        tree = Mapping({segment: tree}, {segment: at}, at)
    return tree


def read_space(node: Node, validator: Validator) -> tuple[Dimension, ...]:
    """Read the dimensions of a sweep's `space`; problems are added to the validator."""
    if not isinstance(node, Mapping) or not node.values:
        message = f"expected keys of the config with their values, got {shown(node)}"
        validator.add("space", message, node.position)
        return ()
    found: dict[str, Dimension] = {}
    for key, value in node.values.items():
        at, path = node.keys[key], f"space.{key}"
        if not all(key.split(".")) or key.split(".")[0] == "extends":
            validator.add(path, "expected a key of the config, such as optimizer.lr", at)
            continue
        dimension = _dimension(key, at, value, found, validator)
        if dimension is not None:
            found[key] = dimension
    return tuple(found.values())


def _dimension(
    key: str, at: Position, node: Node, above: MappingOf[str, Dimension], validator: Validator
) -> Dimension | None:
    path = f"space.{key}"
    kinds = [kind for kind in _KEYS if isinstance(node, Mapping) and kind in node.values]
    if not isinstance(node, Mapping) or len(kinds) != 1:
        message = "expected one of `float: [low, high]`, `int: [low, high]`, `choice: [...]`"
        validator.add(path, f"{message}, got {shown(node)}", node.position)
        return None
    (kind,) = kinds
    before = len(validator.problems)
    validator.unknown_keys(node, _KEYS[kind], path, f"option of a `{kind}`")
    when = _when(node.values.get("when"), path, above, validator)
    read = _choices if kind == "choice" else _range
    dimension = read(kind, key, at, node, when, validator)
    return dimension if len(validator.problems) == before else None


def _range(
    kind: str, key: str, at: Position, node: Mapping, when: When, validator: Validator
) -> Range | None:
    path = f"space.{key}"

    def option(name: str, typed: TypedOption) -> Any:
        if name not in node.values:
            return None
        return validator.value(node.values[name], typed, f"{path}.{name}", node.keys[name])

    bounds, step, log = (
        option(kind, _BOUNDS[kind]),
        option("step", _STEPS[kind]),
        option("log", _LOG),
    )
    listed = node.values[kind]
    if bounds is None or not isinstance(listed, List):
        return None
    low, high = bounds
    if low >= high:
        message = f"expected a lower bound below the upper bound {high}, got {low}"
        validator.add(f"{path}.{kind}", message, listed.position)
    elif log and low <= 0:
        message = f"expected a lower bound above 0 with `log`, got {low}"
        validator.add(f"{path}.{kind}", message, listed.items[0].position)
    elif log and step is not None:
        validator.add(f"{path}.step", "`log` and `step` exclude each other", node.keys["step"])
    elif step is not None and not _divides(step, high - low):
        message = f"expected a divisor of {high - low:g}, got {step}"
        validator.add(f"{path}.step", message, node.values["step"].position)
    step = 1 if step is None and kind == "int" and not log else step
    bounds_at = (listed.items[0].position, listed.items[1].position)
    return Range(key, at, low, high, bool(log), step, when, bounds_at)


def _divides(step: float, length: float) -> bool:
    return math.isclose(length / step, round(length / step), rel_tol=1e-9) and step <= length


def _choices(
    _kind: str, key: str, at: Position, node: Mapping, when: When, validator: Validator
) -> Choices | None:
    path, listed = f"space.{key}.choice", node.values["choice"]
    if not isinstance(listed, List) or not listed.items:
        validator.add(path, f"expected a list of values, got {shown(listed)}", listed.position)
        return None
    nodes: dict[str, Node] = {}
    for item in listed.items:
        label = label_of(item)
        if label in nodes:
            validator.add(path, f"duplicate value {label}", item.position)
        nodes[label] = item
    return Choices(key, at, nodes, when)


def label_of(node: Node) -> str:
    """Return a value as written on the command line, such as `sgd`, `0.1` or `[64, 32]`."""
    value = plain(node)
    if isinstance(value, str) and resolve(value) == value:
        return value
    return json.dumps(value)


def _when(
    node: Node | None, path: str, above: MappingOf[str, Dimension], validator: Validator
) -> dict[str, frozenset[str]]:
    path = f"{path}.when"
    if node is None:
        return {}
    if not isinstance(node, Mapping):
        message = f"expected keys of the space with their values, got {shown(node)}"
        validator.add(path, message, node.position)
        return {}
    choices = {key: one for key, one in above.items() if isinstance(one, Choices)}
    validator.unknown_keys(node, choices, path, "choice above this one")
    found: dict[str, frozenset[str]] = {}
    for key in filter(choices.__contains__, node.values):  # in the order of the file
        value, labels = node.values[key], choices[key].nodes
        items = (
            value.items if isinstance(value, List) and label_of(value) not in labels else [value]
        )
        for item in items:
            if label_of(item) not in labels:
                message = f"expected {one_of(labels)}, got {shown(item)}"
                validator.add(f"{path}.{key}", message, item.position)
        found[key] = frozenset(map(label_of, items))
    return found
