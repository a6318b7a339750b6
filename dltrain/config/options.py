"""Types of options, which validate values and are described by a JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from dltrain.config.schema_text import JsonSchema, Path
from dltrain.config.tree import List, Mapping, Node, plain
from dltrain.core.errors import UsageError
from dltrain.core.registry import Option, options_of

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


class TypedOption:
    """An option with the type of its annotation.

    Attributes:
        option: Name, default and description.
        settings: Frozen dataclass whose fields are the keys of the value; None for other types.
        nullable: Whether settings may be null.
        schema: JSON Schema of the type, without references.
    """

    def __init__(self, option: Option) -> None:
        """Args: option: an option whose type is a settings dataclass or one that pydantic reads."""
        self.option = option
        is_union = get_origin(option.annotation) in (Union, UnionType)
        branches = get_args(option.annotation) if is_union else (option.annotation,)
        self.settings: type | None = next(filter(is_dataclass, branches), None)
        self.nullable: bool = NoneType in branches
        if self.settings is None:
            self._adapter = TypeAdapter[Any](option.annotation, config=_STRICT)
            self.schema = _without_references(self._adapter.json_schema())
        else:
            keys = object_schema(typed_options(self.settings))
            self.schema: JsonSchema = {"anyOf": [keys, {"type": "null"}]} if self.nullable else keys

    @property
    def documented_schema(self) -> JsonSchema:
        """The schema with description and default, for editors."""
        documented = self.schema | {"description": self.option.doc}
        if not self.option.required:
            documented["default"] = to_jsonable_python(self.option.default)
        return documented

    def read(self, node: Node) -> Any:
        """Convert a node to the option's type, which is not a settings dataclass.

        Raises:
            ValidationError: The value does not have the type.
        """
        return self._adapter.validate_json(json.dumps(plain(node)))

    def wrong_parts(self, node: Node, error: ValidationError) -> dict[Path, str | None]:
        """Return the paths of the wrong parts of a value: (), or (1,) for the second item.

        The value of each path is the message of our own validator, None for pydantic's.
        """
        paths: dict[Path, str | None] = {}
        for details in error.errors(include_url=False):
            path = _path_in(node, details["loc"])
            own = str(details.get("ctx", {}).get("error", "")) or None
            paths[path] = paths.get(path) or own
        # The other branches of a union report the whole value.
        parents = {path[:length] for path in paths for length in range(len(path))}
        return {path: message for path, message in paths.items() if path not in parents}


@cache
def typed_options(builder: Callable[..., Any]) -> dict[str, TypedOption]:
    """Return the options of a component's builder, or of a settings dataclass, by name.

    Raises:
        UsageError: The type of an option, such as one of a plugin, can't be written in YAML.
    """
    options = {}
    for option in options_of(builder):
        try:
            options[option.name] = TypedOption(option)
        except PydanticUserError as error:
            name, reason = builder.__name__, str(error.message).partition("\n")[0]
            raise UsageError(f"option {option.name!r} of {name!r}: {reason}") from error
    return options


def object_schema(options: dict[str, TypedOption]) -> JsonSchema:
    """Return the JSON Schema of a mapping with these keys."""
    return {
        "type": "object",
        "properties": {name: option.documented_schema for name, option in options.items()},
        "required": [name for name, option in options.items() if option.option.required],
        "additionalProperties": False,
    }


def _path_in(node: Node, location: tuple[str | int, ...]) -> Path:
    """Return a location of pydantic without the steps that name the branch of a union."""
    path: list[str | int] = []
    for step in location:
        if isinstance(node, List) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        elif isinstance(node, Mapping) and step in node.values:
            node = node.values[str(step)]
        else:
            continue
        path.append(step)
    return tuple(path)


def _without_references(schema: JsonSchema) -> JsonSchema:
    definitions = schema.pop("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolved(definitions[part["$ref"].rpartition("/")[2]])
        return {key: resolved(value) for key, value in part.items() if key != "title"}

    return resolved(schema)
