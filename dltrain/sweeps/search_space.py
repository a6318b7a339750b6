"""What a sweep may change: keys of the config, each with a range or with choices."""

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
"""Of a dimension; that of a choice is its label."""
When: TypeAlias = MappingOf[str, frozenset[str]]
"""Labels of other dimensions' choices; one of each must be drawn."""

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
    """Numbers between two bounds, both among them.

    Attributes:
        key: Of the config, `a.b`.
        at: Where the key stands.
        low: The lower bound.
        high: The upper bound.
        log: Whether equal factors are equally likely, instead of equal distances.
        step: Between two values; None where any is drawn. Of whole numbers, 1 if not given.
        when: What else must be drawn for this to be.
        places: Where the bounds stand, for messages.
    """

    key: str
    at: Position
    low: float | int
    high: float | int
    log: bool
    step: float | int | None
    when: When
    places: tuple[Position, Position]

    def draw(self, trial: Trial) -> Value:
        """A value by the sampler; the trial's own, where it has one already."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            step = int(self.step or 1)
            return trial.suggest_int(self.key, self.low, self.high, step=step, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def node(self, value: Value) -> Node:
        """The value as in a file, at the bound that it is."""
        place = self.places[1] if value == self.high else self.places[0]
        return Scalar(value, repr(value), place)

    @property
    def extremes(self) -> tuple[Value, ...]:
        """What to try before anything is drawn."""
        return (self.low, self.high)

    @property
    def grid(self) -> list[Value] | None:
        """Every value; None where there is no end of them."""
        if self.step is None:
            return None
        count = round((self.high - self.low) / self.step)
        return [self.low + number * self.step for number in range(count + 1)]


@dataclass(frozen=True)
class Choices:
    """Some values, by the words that one would write for them on the command line.

    Attributes:
        key: Of the config, `a.b`.
        at: Where the key stands.
        nodes: By label.
        when: What else must be drawn for this to be.
    """

    key: str
    at: Position
    nodes: MappingOf[str, Node]
    when: When

    def draw(self, trial: Trial) -> Value:
        """See `Range.draw`."""
        return trial.suggest_categorical(self.key, list(self.nodes))

    def node(self, value: Value) -> Node:
        """The value of that label, where it stands."""
        return self.nodes[str(value)]

    @property
    def extremes(self) -> tuple[Value, ...]:
        """All of them."""
        return tuple(self.nodes)

    @property
    def grid(self) -> list[Value] | None:
        """All of them."""
        return list(self.nodes)


Dimension: TypeAlias = Range | Choices


def applies(dimension: Dimension, values: MappingOf[str, Value]) -> bool:
    """Whether a dimension is drawn beside these values of those before it."""
    return all(values.get(key) in labels for key, labels in dimension.when.items())


def draw(dimensions: Sequence[Dimension], trial: Trial) -> dict[str, Value]:
    """A value of each dimension that applies, by key."""
    values: dict[str, Value] = {}
    for dimension in dimensions:
        if applies(dimension, values):
            values[dimension.key] = dimension.draw(trial)
    return values


def tries(dimensions: Sequence[Dimension]) -> list[dict[str, Value]]:
    """Values that together hold every choice and every bound; the first is of first ones alone."""
    by_key = {dimension.key: dimension for dimension in dimensions}
    found = [_with(dimensions, {})]
    for dimension in dimensions:
        needed = _needed(dimension, by_key)
        found += [
            _with(dimensions, {**needed, dimension.key: value}) for value in dimension.extremes
        ]
    return found


def _with(dimensions: Sequence[Dimension], forced: MappingOf[str, Value]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for dimension in dimensions:
        if applies(dimension, values):
            values[dimension.key] = forced.get(dimension.key, dimension.extremes[0])
    return values


def _needed(dimension: Dimension, by_key: MappingOf[str, Dimension]) -> dict[str, Value]:
    """Values of others with which it applies."""
    needed: dict[str, Value] = {}
    for key, labels in dimension.when.items():
        needed |= _needed(by_key[key], by_key)
        needed[key] = next(label for label in by_key[key].extremes if label in labels)
    return needed


def as_tree(
    dimensions: Sequence[Dimension], values: MappingOf[str, Value], below: Mapping
) -> Mapping:
    """The values as a config's tree over another, each where it stands in the sweep's file."""
    drawn = [
        branch(dimension.key, dimension.node(values[dimension.key]), dimension.at)
        for dimension in dimensions
        if dimension.key in values
    ]
    return reduce(merge_keys, drawn, below)


def told(dimension: Dimension) -> str:
    """All of it but its place in the file, in a line."""
    shown = {
        name: sorted(value) if name == "nodes" else value
        for name, value in vars(dimension).items()
        if name not in ("at", "places", "when")
    }
    return repr(
        {**shown, "when": {key: sorted(dimension.when[key]) for key in sorted(dimension.when)}}
    )


def branch(key: str, value: Node, at: Position) -> Mapping:
    """`a.b` and its value as a tree."""
    *parents, last = key.split(".")
    tree = Mapping({last: value}, {last: at}, at)
    for segment in reversed(parents):
        tree = Mapping({segment: tree}, {segment: at}, at)
    return tree


def read_space(node: Node, validator: Validator) -> tuple[Dimension, ...]:
    """The dimensions of a sweep's `space`, in order; what is wrong is added to the problems."""
    if not isinstance(node, Mapping) or not node.values:
        message = f"expected keys of the config, each with its values, got {shown(node)}"
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
        message = f"the lower bound {low} is not below the upper one, {high}"
        validator.add(f"{path}.{kind}", message, listed.position)
    elif log and low <= 0:
        message = f"with `log`, the lower bound must be above 0, got {low}"
        validator.add(f"{path}.{kind}", message, listed.items[0].position)
    elif log and step is not None:
        validator.add(f"{path}.step", "`log` and `step` exclude each other", node.keys["step"])
    elif step is not None and not _divides(step, high - low):
        message = f"{step} does not lead from {low} to {high}"
        validator.add(f"{path}.step", message, node.values["step"].position)
    step = 1 if step is None and kind == "int" and not log else step
    places = (listed.items[0].position, listed.items[1].position)
    return Range(key, at, low, high, bool(log), step, when, places)


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
            validator.add(path, f"{label} is in the list already", item.position)
        nodes[label] = item
    return Choices(key, at, nodes, when)


def label_of(node: Node) -> str:
    """A value in the words of the command line: `sgd`, `0.1`, `[64, 32]`."""
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
        message = f"expected a key of the space and its value, got {shown(node)}"
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
                message = f"{shown(item)} is never drawn; expected {one_of(labels)}"
                validator.add(f"{path}.{key}", message, item.position)
        found[key] = frozenset(map(label_of, items))
    return found
