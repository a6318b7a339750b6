"""JSON files of a run directory, which may be untrusted: bounded in size, and typed.

A file has a maximum size in bytes, a maximum number of values and of nested levels, no key twice,
only finite numbers, and the types of a schema, such as a TypedDict.

To add a field to a file, add it to the dataclass that the file is written from, with a type that
JSON has (int, float, str, bool, None, list, dict, Literal, TypedDict; no tuples). Where files of
older runs lack it, give it a default, or name it among the `optional` of `typed_dict_of`.
"""

from __future__ import annotations

import dataclasses
import json
import re
import reprlib
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NotRequired, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from dltrain.checkpoints.atomic_files import read
from dltrain.core.errors import RunError, shorten

Count = Annotated[int, Field(ge=0, lt=2**63)]
"""A non-negative integer of 63 bits."""

KIB, MIB, GIB = 2**10, 2**20, 2**30

MAX_DEPTH = 64
MAX_VALUES = 2_000_000
"""Maximum number of values in a file; a value takes up to 100 times the memory of its text."""

_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # possessive: in linear time
_BRACKETS = re.compile(rb"[\[\]{}]")


def typed_dict_of(cls: type, optional: Collection[str] = (), **hints: Any) -> Any:
    """Return a TypedDict with the fields of a dataclass, for `read_json`; an `int` is a `Count`.

    Args:
        cls: The dataclass.
        optional: Fields that a file may lack, in addition to those with a default.
        **hints: Types that replace the dataclass's own, by field.
    """
    own = get_type_hints(cls, include_extras=True) | hints
    keys = {}
    for field in dataclasses.fields(cls):
        own[field.name] = {int: Count, int | None: Count | None}.get(
            own[field.name], own[field.name]
        )
        is_optional = field.name in optional or field.default is not dataclasses.MISSING
        keys[field.name] = NotRequired[own[field.name]] if is_optional else own[field.name]
    return TypedDict(cls.__name__, keys)  # pyright: ignore


def read_json(
    path: Path, schema: Any, max_bytes: int, *, levels: int = 1, infinite: bool = False
) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        schema: Type of the content: a TypedDict, or another type without dataclasses.
        max_bytes: Maximum size of the file in bytes.
        levels: See `atomic_files.open_regular`.
        infinite: Whether numbers may be infinite or NaN, as options of a config may be.

    Raises:
        FileNotFoundError: The file does not exist.
        RunError: The file can't be read, or is damaged; the message names the file and the place
            in it.
    """
    try:
        return parse_json(read(path, max_bytes, levels=levels), schema, infinite=infinite)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path}: damaged: {error}") from error


def parse_json(content: bytes, schema: Any, *, infinite: bool = False) -> Any:
    """Parse JSON, and check every value against a schema without conversions.

    Args:
        content: UTF-8 text.
        schema: See `read_json`.
        infinite: See `read_json`.

    Raises:
        ValueError: The text is not JSON, or has other types; the message is one short line.
    """
    try:
        _check_limits(content)
        value = json.loads(
            content.decode(),
            object_pairs_hook=reject_duplicate_keys,
            parse_float=float if infinite else parse_finite,
            parse_int=parse_integer,
            parse_constant=float if infinite else parse_finite,
        )
        return validated(value, schema)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at line {error.lineno}") from None
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None


def validated(value: Any, schema: Any) -> Any:
    """Return a value that has the types of a schema, without conversions.

    Raises:
        ValueError: The value has other types; the message is one short line.
    """
    try:
        return _adapter(_Hashed(schema)).validate_python(value, strict=True)
    except ValidationError as error:
        raise ValueError(_describe_first(error)) from None


def _check_limits(content: bytes) -> None:
    """Refuse text whose values would take more memory, or more levels, than valid files need."""
    marks = _TEXT.sub(b"", content)
    if marks.count(b",") + marks.count(b":") + marks.count(b"[") > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES:,} values")
    depth = 0
    for bracket in _BRACKETS.findall(marks):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a dict of key-value pairs; hook for `json.loads`, which keeps the last duplicate."""
    if len(entries := dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return entries


def parse_finite(text: str) -> float:
    """Return a finite number; hook for `json.loads`, which accepts NaN, Infinity and 1e999."""
    if (value := float(text)) - value != 0:
        raise ValueError(f"{shorten(text, 20)} is not a finite number")
    return value


def parse_integer(text: str) -> int:
    """Return an integer of 64 bits; hook for `json.loads`, which accepts integers of any length."""
    if len(text) > len(str(-(2**63))):
        raise ValueError(f"{shorten(text, 20)} is too large")
    return int(text)


class _Hashed:
    """Makes a schema a key of the cache by identity; equal schemas may not be hashable."""

    def __init__(self, schema: Any) -> None:
        self.schema = schema

    def __hash__(self) -> int:
        return id(self.schema)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and self.schema is other.schema


@cache
def _adapter(schema: _Hashed) -> TypeAdapter[Any]:
    """Return the validator of a schema. Building one takes longer than reading some files."""
    return TypeAdapter(schema.schema)


def _describe_first(error: ValidationError) -> str:
    """Return a line about the first error, with its place in the value."""
    first = error.errors(include_url=False)[0]
    place = shorten(".".join(map(str, first["loc"])), 100)
    if first["type"] == "missing":
        return f"it has no {place}"
    received = shorten(reprlib.repr(first["input"]), 40)
    expected = first["msg"].removeprefix("Input should be ")
    return f"{place + ': ' if place else ''}expected {expected}, got {received}"
