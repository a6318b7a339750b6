"""Validate nodes against registries and option types; each error becomes a `Problem`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

from pydantic import ValidationError

from dltrain.config.options import TypedOption, typed_options
from dltrain.config.problems import Position, Problem, did_you_mean, suggestions, truncate
from dltrain.config.schema_text import Path, allows_text, describe, schema_at, words_allowed
from dltrain.config.tree import List, Mapping, Node, Scalar, plain
from dltrain.core.registry import Choice, Registry


class Validator:
    """Validates the parts of one config. An invalid part becomes None and adds a problem."""

    def __init__(self, problems: list[Problem]) -> None:
        """Args: problems: list to which problems are added."""
        self.problems = problems

    def add(self, path: str, message: str, position: Position) -> None:
        """Add a problem."""
        self.problems.append(Problem(path, message, position))

    def choice(self, node: Node, registry: Registry, path: str) -> Choice | None:
        """Read a component: its name, or a mapping of `name` and options."""
        if isinstance(node, Mapping):
            entries, name_path = node, f"{path}.name"
        else:
            entries, name_path = Mapping({"name": node}, {}, node.position), path
        name = entries.values.get("name")
        if name is None:
            if not self.unknown_keys(entries, ["name"], path, "key", only_close=True):
                self.add(path, f"missing `name`; expected {one_of(registry)}", node.position)
            return None
        if not isinstance(name, Scalar) or name.value not in registry:
            hint = did_you_mean(name.text, registry) if isinstance(name, Scalar) else ""
            hint = hint or f"; expected {one_of(registry)}"
            self.add(name_path, f"unknown {registry.kind} {shown(name)}{hint}", name.position)
            return None
        component = registry[name.text]
        options = typed_options(component.builder)
        what = f"option of {registry.kind} {component.name!r}"
        self.unknown_keys(entries, ["name", *options], path, what)
        return Choice(component, self.values(entries, options, path, name.position))

    def settings(self, node: Node, settings: Callable[..., Any], path: str, at: Position) -> Any:
        """Read an instance of a settings dataclass; `at` is the position of its key."""
        if not isinstance(node, Mapping):
            self.add(path, f"expected a mapping, got {shown(node)}", node.position)
            return None
        options = typed_options(settings)
        before = len(self.problems)
        self.unknown_keys(node, options, path, f"option of {path!r}")
        values = self.values(node, options, path, at)
        return settings(**values) if len(self.problems) == before else None

    def values(
        self, node: Mapping, options: dict[str, TypedOption], path: str, at: Position
    ) -> dict[str, Any]:
        """Read the value of every option; `at` is the position for errors about missing ones."""
        values = {}
        meant = {near for key in node.values.keys() - options for near in suggestions(key, options)}
        for name, option in options.items():
            if name in node.values:
                inner = f"{path}.{name}"
                values[name] = self.value(node.values[name], option, inner, node.keys[name])
            elif not option.option.required:
                values[name] = option.option.default
            elif name not in meant:  # a misspelt key is reported once
                self.add(f"{path}.{name}", f"missing; expected {describe(option.schema)}", at)
        return values

    def value(self, node: Node, option: TypedOption, path: str, at: Position) -> Any:
        """Read the value of an option; `at` is the position of its key."""
        if option.settings is not None:
            absent = option.nullable and isinstance(node, Scalar) and node.value is None
            return None if absent else self.settings(node, option.settings, path, at)
        try:
            return option.read(node)
        except ValidationError as error:
            for part, message in option.wrong_parts(node, error).items():
                self.wrong_value(node, part, option, path, message)

    def wrong_value(
        self, node: Node, part: Path, option: TypedOption, path: str, message: str | None
    ) -> None:
        """Add a problem for a part of a value, with the message or with what its type accepts."""
        for step in part:
            node = _child(node, step)
        if message is not None:
            self.add(".".join([path, *map(str, part)]), message, node.position)
            return
        schema = schema_at(option.schema, part)
        hint = ""
        if isinstance(node, Scalar):
            hint = did_you_mean(node.text, words_allowed(schema))
            if not isinstance(node.value, str | None) and allows_text(schema):
                hint = hint or "; put it in quotes to make it text"
        message = f"expected {describe(schema)}, got {shown(node)}{hint}"
        self.add(".".join([path, *map(str, part)]), message, node.position)

    def unknown_keys(
        self, node: Mapping, known: Collection[str], path: str, what: str, only_close: bool = False
    ) -> bool:
        """Add a problem for each unknown key; return whether there was any."""
        found = False
        for key in node.values:
            if key in known:
                continue
            hint = did_you_mean(key, known)
            if hint or not only_close:
                found = True
                hint = hint or f"; expected {one_of(known)}"
                key_path = f"{path}.{key}" if path else key or "''"
                self.add(key_path, f"unknown {what}{hint}", node.keys[key])
        return found


def _child(node: Node, step: str | int) -> Node:
    if isinstance(node, List) and isinstance(step, int):
        return node.items[step]
    assert isinstance(node, Mapping)
    return node.values[str(step)]


def one_of(names: Iterable[str]) -> str:
    """Describe the accepted names."""
    return f"one of {', '.join(names)}"


def shown(node: Node) -> str:
    """Format a value for an error message."""
    if not isinstance(node, Scalar) or isinstance(node.value, str):
        return truncate(repr(plain(node)), 40)
    finite = not isinstance(node.value, float) or math.isfinite(node.value)
    return (truncate(node.text, 40) or "nothing") + ("" if finite else ", which is not finite")
