"""List components, the other sections of a config, and their options."""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal

from dltrain.config.options import typed_options
from dltrain.config.plugins import load_entry_points, register_builtins
from dltrain.config.problems import did_you_mean
from dltrain.config.settings import (
    CheckpointSettings,
    EarlyStopSettings,
    RecordingSettings,
    TrainSettings,
)
from dltrain.core.errors import UsageError
from dltrain.core.registry import REGISTRIES, Component, Registry

SECTIONS = Registry("section", None)
SECTIONS.register("train")(TrainSettings)
SECTIONS.register("checkpoint")(CheckpointSettings)
SECTIONS.register("early_stop")(EarlyStopSettings)
SECTIONS.register("recording")(RecordingSettings)

KINDS: dict[str, Registry] = {**REGISTRIES, "sections": SECTIONS}


@dataclass(frozen=True)
class ListedOption:
    """An option of a component, described for a reader.

    Attributes:
        name: Key of the option.
        type: What it accepts, in words.
        default: Default value; None if there is none, or if it is null.
        required: Whether a config must have it.
        doc: What it does.
        options: Keys of the value, if it is a mapping, such as `augment`.
    """

    name: str
    type: str
    default: Any
    required: bool
    doc: str
    options: tuple[ListedOption, ...] = ()


@dataclass(frozen=True)
class Listed:
    """A component, its docstring's first line, and its options."""

    kind: str
    name: str
    summary: str
    options: tuple[ListedOption, ...]


def list_components(kind: str | None = None, name: str | None = None) -> list[Listed]:
    """Return the components of a kind, or one of them.

    Args:
        kind: `models`, `data`, `losses`, …, `sections` (default: every kind).
        name: Name of one component (default: all components of the kind).

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
        raise UsageError(f"no kind {kind!r}" + _hint(kind, KINDS))
    if name is None:
        return [_listed(c) for registry in registries for c in registry.values()]
    (registry,) = registries
    if name not in registry:
        raise UsageError(f"no {registry.kind} {name!r}" + _hint(name, registry))
    return [_listed(registry[name])]


def _hint(word: str, known: Collection[str]) -> str:
    return did_you_mean(word, known) or f"; there are: {', '.join(known)}"


def _listed(component: Component) -> Listed:
    options = _listed_options(component.builder)
    return Listed(component.kind, component.name, component.summary, options)


def _listed_options(builder: Callable[..., Any]) -> tuple[ListedOption, ...]:
    """Return the options of a component, or the keys of an option's value that is a mapping."""
    return tuple(
        ListedOption(
            option.name,
            type_name(option.annotation),
            None if option.required else option.default,
            option.required,
            option.doc,
            () if typed.settings is None else _listed_options(typed.settings),
        )
        for typed in typed_options(builder).values()
        for option in [typed.option]
    )


def type_name(annotation: Any) -> str:
    """Return a type in plain words: `int > 0`, `list of int`, `relu | gelu`."""
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
    name = "mapping" if is_dataclass(annotation) else annotation.__name__
    return {"str": "text", "Path": "path"}.get(name, name)


def _bounds(metadata: tuple[Any, ...]) -> list[str]:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = []
    for item in metadata:
        for constraint in getattr(item, "metadata", [item]):
            for attribute, sign in signs.items():
                bound = getattr(constraint, attribute, None)
                if bound is not None:
                    bounds.append(f"{sign} {bound}")
    return bounds
