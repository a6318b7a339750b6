"""Components, the other sections of a config, and their options."""

from __future__ import annotations

import difflib
import typing
from dataclasses import dataclass
from typing import Any, Literal

from dltrain.errors import UsageError
from dltrain.plugins import load_entry_points, register_builtins
from dltrain.registry import REGISTRIES, Component, Registry
from dltrain.settings import (
    CheckpointSettings,
    EarlyStopSettings,
    RecordingSettings,
    TrainSettings,
)

SECTIONS = Registry("section")
SECTIONS.register("train")(TrainSettings)
SECTIONS.register("checkpoint")(CheckpointSettings)
SECTIONS.register("early_stop")(EarlyStopSettings)
SECTIONS.register("recording")(RecordingSettings)

KINDS: dict[str, Registry] = {**REGISTRIES, "sections": SECTIONS}


@dataclass(frozen=True)
class ListedOption:
    """An option as a reader wants it; `default` is None with `required` where there is none."""

    name: str
    type: str
    default: Any
    required: bool
    doc: str


@dataclass(frozen=True)
class Listed:
    """A component, its docstring's first line, and its options."""

    kind: str
    name: str
    summary: str
    options: tuple[ListedOption, ...]


def list_components(kind: str | None = None, name: str | None = None) -> list[Listed]:
    """The components of a kind, or one of them.

    Args:
        kind: `models`, `data`, `losses`, …, `sections`; every kind if not given.
        name: One of them.

    Raises:
        UsageError: There is no such kind, or no such component.
    """
    register_builtins()
    load_entry_points()
    if kind is None:
        registries = list(KINDS.values())
    elif kind in KINDS:
        registries = [KINDS[kind]]
    else:
        raise UsageError(f"no kind {kind!r}; there are: {', '.join(KINDS)}")
    if name is None:
        return [_listed(c) for registry in registries for c in registry.values()]
    (registry,) = registries
    if name not in registry:
        close = difflib.get_close_matches(name, registry, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(registry)}"
        raise UsageError(f"no {registry.kind} {name!r}; {hint}")
    return [_listed(registry[name])]


def _listed(component: Component) -> Listed:
    options = tuple(
        ListedOption(
            option.name,
            type_name(option.annotation),
            None if option.required else option.default,
            option.required,
            option.doc,
        )
        for option in component.options
    )
    return Listed(component.kind, component.name, component.summary, options)


def type_name(annotation: Any) -> str:
    """A type in plain words: `int > 0`, `list of int`, `relu | gelu`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return f"{type_name(arguments[0])} {', '.join(_bounds(arguments[1:]))}".rstrip()
    if origin is Literal:
        return " | ".join(str(value) for value in arguments)
    if origin is tuple:
        return f"list of {type_name(arguments[0])}"
    if arguments and origin is not None and not isinstance(annotation, type):
        return " | ".join(type_name(a) for a in arguments)
    if annotation is type(None):
        return "null"
    return {"str": "text", "Path": "path"}.get(annotation.__name__, annotation.__name__)


def _bounds(metadata: tuple[Any, ...]) -> list[str]:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    found = []
    for item in metadata:
        for constraint in getattr(item, "metadata", [item]):
            for attribute, sign in signs.items():
                bound = getattr(constraint, attribute, None)
                if bound is not None:
                    found.append(f"{sign} {bound}")
    return found
