"""Files of a run directory, which may come from a stranger: plain files, bounded and typed.

`verify` refuses a directory in which a link or a special file stands in the place of anything that
dltrain reads or writes. `read_json` is the one reader for JSON: a file has at most so many bytes,
values and levels, each key once, only finite numbers, and the types of a TypedDict.

A new field of a file: give it to the dataclass that the file is written from, with a type that JSON
has (int, float, str, bool, None, list, dict, Literal, TypedDict; no tuples), and, where older runs
do not have it, a default or a place among the `optional` of `typed`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import reprlib
import stat
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NotRequired, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from dltrain.errors import RunError, brief
from dltrain.files import is_temporary, read, unusual

Count = Annotated[int, Field(ge=0, lt=2**63)]
"""A number of something."""

KIB, MIB, GIB = 2**10, 2**20, 2**30

FILES = {
    "config.yaml": 256 * KIB,
    "record.json": 16 * MIB,
    "summary.json": 16 * MIB,
    "inputs.json": 64 * MIB,
    "lock": 4 * KIB,
    "metrics.jsonl": GIB,
    "log.txt": GIB,
    "report.html": GIB,
    "samples.png": GIB,
}
"""The files of a run directory, and the most bytes that each may have."""

FOLDERS = ("checkpoints", "tensorboard", "exports")

_POINTERS = {"best.json": 16 * KIB, "latest.json": 16 * KIB}
"""Files beside the checkpoints, and the most bytes that each may have."""

MOST_ENTRIES = 100_000
"""Of a run directory's folders; one with more is not looked through."""

DEEPEST_FOLDER = 8
DEEPEST_JSON = 64
MOST_VALUES = 2_000_000
"""In a JSON file: a value takes up to a hundred times the memory of its text."""

_FOLDER = re.compile(r"step-[0-9]{10,}|[0-9]{5,}")
"""Names that only directories have: checkpoints, and TensorBoard's points of a step."""
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # possessive: in linear time
_BRACKETS = re.compile(rb"[\[\]{}]")


def verify(
    directory: Path, files: Mapping[str, int] = FILES, folders: Collection[str] = FOLDERS
) -> None:
    """Looks at everything in a directory that dltrain reads or writes there, and opens nothing.

    What else lies there is nobody's business: nothing touches it.

    Args:
        directory: A run's, or a sweep's; may itself be reached through a link.
        files: The names of its files, and the most bytes that each may have.
        folders: The names of its folders, in which every entry counts.

    Raises:
        RunError: A link, a FIFO, a device, a directory, a file with a second name, or one that is
            too large stands where none belongs; the message names it.
    """
    for entry in _entries(directory):
        if entry.name in folders:
            _verify_folder(directory, entry)
        elif entry.name in files or is_temporary(entry.name):
            found = _looked_at(directory, entry)
            if found is None:
                continue
            if stat.S_ISDIR(found.st_mode):
                raise _refusal(directory, entry, "a directory in the place of a file")
            if found.st_size > (most := files.get(entry.name, GIB)):
                size = f"larger ({found.st_size:,} bytes) than such a file can be ({most:,})"
                raise _refusal(directory, entry, size)


def _verify_folder(directory: Path, folder: os.DirEntry[str]) -> None:
    found = _looked_at(directory, folder)
    if found is not None and not stat.S_ISDIR(found.st_mode):
        raise _refusal(directory, folder, "a file in the place of a directory")
    places, count = [(folder, 1)], 0
    while places:
        place, depth = places.pop()
        for entry in _entries(Path(place.path)):
            found, count = _looked_at(directory, entry), count + 1
            if count > MOST_ENTRIES or depth > DEEPEST_FOLDER:
                raise _refusal(directory, folder, "a directory with more in it than dltrain writes")
            if found is None:
                continue
            if stat.S_ISDIR(found.st_mode):
                places.append((entry, depth + 1))
            elif depth == 1 and _FOLDER.fullmatch(entry.name):
                raise _refusal(directory, entry, "a file in the place of a directory")
            elif depth == 1 and found.st_size > _POINTERS.get(entry.name, found.st_size):
                size = f"larger ({found.st_size:,} bytes) than such a file can be"
                raise _refusal(directory, entry, size)


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    """In no order; none where the directory has gone in the meantime."""
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"{brief(str(directory), 300)}: can't be read: {error.strerror}") from error


def _looked_at(directory: Path, entry: os.DirEntry[str]) -> os.stat_result | None:
    """What it is; None where it has gone: another process may work in the directory."""
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    if (kind := unusual(found)) is not None:
        raise _refusal(directory, entry, kind)
    return found


def _refusal(directory: Path, entry: os.DirEntry[str], kind: str) -> RunError:
    place = brief(os.path.relpath(entry.path, directory), 200)
    return RunError(
        f"{brief(str(directory), 300)}: {place} is {kind}; dltrain does not use a run directory "
        "with it: remove it, or copy the run without it"
    )


# ------------------------------------------------------------------------------------------- JSON


def typed(cls: type, optional: Collection[str] = (), **hints: Any) -> Any:
    """The TypedDict of a dataclass's fields, for `read_json`; an `int` is a `Count`.

    Args:
        cls: The dataclass.
        optional: Fields that a file may lack, beside those that have a default.
        **hints: Types to take instead of the dataclass's own.
    """
    own = get_type_hints(cls, include_extras=True) | hints
    keys = {}
    for field in dataclasses.fields(cls):
        own[field.name] = {int: Count, int | None: Count | None}.get(
            own[field.name], own[field.name]
        )
        may_lack = field.name in optional or field.default is not dataclasses.MISSING
        keys[field.name] = NotRequired[own[field.name]] if may_lack else own[field.name]
    return TypedDict(cls.__name__, keys)  # pyright: ignore


def read_json(
    path: Path, schema: Any, most_bytes: int, *, levels: int = 1, infinite: bool = False
) -> Any:
    """What a JSON file of a run holds.

    Args:
        path: The file.
        schema: The TypedDict, or another type without dataclasses, that it must have.
        most_bytes: A larger file is refused.
        levels: See `files.open_regular`.
        infinite: Whether numbers may be infinite or NaN, as options of a config may be.

    Raises:
        FileNotFoundError: There is none.
        RunError: It can't be read, or is damaged; the message names the file and the place in it.
    """
    try:
        return parse_json(read(path, most_bytes, levels=levels), schema, infinite=infinite)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path}: damaged: {error}") from error


def parse_json(content: bytes, schema: Any, *, infinite: bool = False) -> Any:
    """What JSON text holds; each part has the type that the schema gives it, exactly.

    See `read_json`.

    Raises:
        ValueError: It is not JSON, or has other types; the message is short, and shows on one line.
    """
    try:
        _bound(content)
        value = json.loads(
            content.decode(),
            object_pairs_hook=each_key_once,
            parse_float=float if infinite else finite,
            parse_int=whole,
            parse_constant=float if infinite else finite,
        )
        return checked(value, schema)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at line {error.lineno}") from None
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST_JSON} levels") from None


def checked(value: Any, schema: Any) -> Any:
    """A value with the types of a schema, exactly.

    Raises:
        ValueError: It has others; the message is short, and shows on one line.
    """
    try:
        return _adapter(_Hashed(schema)).validate_python(value, strict=True)
    except ValidationError as error:
        raise ValueError(_first(error)) from None


def _bound(content: bytes) -> None:
    """Refuses text whose values would take more memory, or more levels, than any file of ours."""
    marks = _TEXT.sub(b"", content)
    if marks.count(b",") + marks.count(b":") + marks.count(b"[") > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES:,} values")
    depth = 0
    for bracket in _BRACKETS.findall(marks):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEEPEST_JSON:
            raise ValueError(f"nested deeper than {DEEPEST_JSON} levels")


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`, which takes the last of two alike."""
    if len(entries := dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return entries


def finite(text: str) -> float:
    """For `json.loads`, which takes NaN, Infinity and 1e999."""
    if (value := float(text)) - value != 0:
        raise ValueError(f"{brief(text, 20)} is not a finite number")
    return value


def whole(text: str) -> int:
    """For `json.loads`, which takes whole numbers of any length."""
    if len(text) > len(str(-(2**63))):
        raise ValueError(f"{brief(text, 20)} is too large")
    return int(text)


class _Hashed:
    """A schema as a key of a cache: types such as `dict[str, int]` made twice are two."""

    def __init__(self, schema: Any) -> None:
        self.schema = schema

    def __hash__(self) -> int:
        return id(self.schema)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and self.schema is other.schema


@cache
def _adapter(schema: _Hashed) -> TypeAdapter[Any]:
    """Made once: making it takes as long as reading some files."""
    return TypeAdapter(schema.schema)


def _first(error: ValidationError) -> str:
    """The first mistake in words, with its place."""
    found = error.errors(include_url=False)[0]
    place = brief(".".join(map(str, found["loc"])), 100)
    if found["type"] == "missing":
        return f"it has no {place}"
    given = brief(reprlib.repr(found["input"]), 40)
    told = found["msg"].removeprefix("Input should be ")
    return f"{place + ': ' if place else ''}expected {told}, got {given}"
