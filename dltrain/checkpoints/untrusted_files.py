"""Files of a run directory, which may come from a stranger: plain files, bounded and typed.

`verify` refuses a directory in which a link, a special file or a directory stands in the place of a
file that dltrain reads or writes. `read_json` is the one reader for JSON: a file has at most so
many bytes, values and levels, each key once, only finite numbers, and the types of a TypedDict.

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
import sys
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NotRequired, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from dltrain.checkpoints.atomic_files import is_temporary, read, special_file_kind
from dltrain.core.errors import RunError, shorten

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

_STEP = r"checkpoints/\.?step-[0-9]{10,}[^/]*"
_POINT = r"tensorboard/[0-9]{5,}"
_FILES_IN_FOLDERS = {
    r"checkpoints/(best|latest)\.json": 16 * KIB,
    rf"{_STEP}/manifest\.json": 64 * KIB,
    rf"{_STEP}/state\.json": 64 * MIB,
    rf"{_STEP}/[^/]+": sys.maxsize,  # see `checkpoint.load`
    r"tensorboard/(events\.out\.tfevents\..+|projector_config\.pbtxt)": 64 * GIB,
    rf"{_POINT}/test/(tensors\.tsv|metadata\.tsv|sprite\.png)": GIB,
    r"exports/[^/]+\.(onnx|pt2|safetensors)": 64 * GIB,
    r"exports/[^/]+\.md": 16 * MIB,
}

MOST_ENTRIES = 100_000
"""Of a run directory's folders; one with more is not looked through."""

DEEPEST_FOLDER = 8
DEEPEST_JSON = 64
MOST_VALUES = 2_000_000
"""In a JSON file: a value takes up to a hundred times the memory of its text."""

_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # possessive: in linear time
_BRACKETS = re.compile(rb"[\[\]{}]")


class DirectoryLayout:
    """What a directory holds: patterns of paths below it.

    Args:
        files: Of its files, and the most bytes that each may have; the first that fits counts.
        folders: Of its directories. In one at the top, every entry counts.
        closed: Of directories that are not looked into.
    """

    def __init__(
        self, files: Mapping[str, int], folders: Collection[str], closed: Collection[str] = ()
    ) -> None:
        self._files = [(re.compile(pattern, re.DOTALL), most) for pattern, most in files.items()]
        self._folders = re.compile("|".join([*folders, *closed]))
        self._closed = re.compile("|".join(closed) or r"(?!)")

    def most_bytes(self, path: str) -> int | None:
        """Of the file with this path; None where no file has it."""
        if is_temporary(path):
            return GIB
        fitting = (most for pattern, most in self._files if pattern.fullmatch(path))
        return next(fitting, None)

    def is_folder(self, path: str) -> bool:
        """Whether a directory has this path."""
        return self._folders.fullmatch(path) is not None

    def is_closed(self, path: str) -> bool:
        """Whether what is below this path counts elsewhere."""
        return self._closed.fullmatch(path) is not None


RUN_LAYOUT = DirectoryLayout(
    {re.escape(name): most for name, most in FILES.items()} | _FILES_IN_FOLDERS,
    ["checkpoints", "tensorboard", "exports", _STEP, _POINT, rf"{_POINT}/test"],
)
"""A run directory."""


def verify(directory: Path, layout: DirectoryLayout = RUN_LAYOUT) -> None:
    """Looks at everything in a directory that dltrain reads or writes there, and opens nothing.

    What else lies there is nobody's business: nothing touches it.

    Args:
        directory: A run's, or a sweep's; may itself be reached through a link.
        layout: What it holds.

    Raises:
        RunError: A link, a FIFO, a device, a directory, a file with a second name, or one that is
            too large stands where none belongs; the message names it.
    """
    places, count = [(directory, "")], 0
    while places:
        place, above = places.pop()
        for entry in _entries(place):
            path = above + entry.name
            most, is_folder = layout.most_bytes(path), layout.is_folder(path)
            if not above and most is None and not is_folder:
                continue
            found = _looked_at(directory, entry)
            if found is None:
                continue
            count += 1
            if count > MOST_ENTRIES or path.count("/") > DEEPEST_FOLDER:
                raise _refusal(directory, path, "more than dltrain writes into a directory")
            if stat.S_ISDIR(found.st_mode):
                if most is not None:
                    raise _refusal(directory, path, "a directory in the place of a file")
                if not layout.is_closed(path):
                    places.append((place / entry.name, f"{path}/"))
            elif is_folder:
                raise _refusal(directory, path, "a file in the place of a directory")
            elif most is not None and found.st_size > most:
                size = f"larger ({found.st_size:,} bytes) than such a file can be ({most:,})"
                raise _refusal(directory, path, size)


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    """In no order; none where the directory has gone in the meantime."""
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(
            f"{shorten(str(directory), 300)}: can't be read: {error.strerror}"
        ) from error


def _looked_at(directory: Path, entry: os.DirEntry[str]) -> os.stat_result | None:
    """What it is; None where it has gone: another process may work in the directory."""
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    if (kind := special_file_kind(found)) is not None:
        raise _refusal(directory, os.path.relpath(entry.path, directory), kind)
    return found


def _refusal(directory: Path, path: str, kind: str) -> RunError:
    return RunError(
        f"{shorten(str(directory), 300)}: {shorten(path, 200)} is {kind}; dltrain does not use a "
        "directory with it: remove it, or copy the rest elsewhere"
    )


# ------------------------------------------------------------------------------------------- JSON


def typed_dict_of(cls: type, optional: Collection[str] = (), **hints: Any) -> Any:
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
            object_pairs_hook=reject_duplicate_keys,
            parse_float=float if infinite else finite,
            parse_int=whole,
            parse_constant=float if infinite else finite,
        )
        return validated(value, schema)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at line {error.lineno}") from None
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST_JSON} levels") from None


def validated(value: Any, schema: Any) -> Any:
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


def reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`, which takes the last of two alike."""
    if len(entries := dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return entries


def finite(text: str) -> float:
    """For `json.loads`, which takes NaN, Infinity and 1e999."""
    if (value := float(text)) - value != 0:
        raise ValueError(f"{shorten(text, 20)} is not a finite number")
    return value


def whole(text: str) -> int:
    """For `json.loads`, which takes whole numbers of any length."""
    if len(text) > len(str(-(2**63))):
        raise ValueError(f"{shorten(text, 20)} is too large")
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
    place = shorten(".".join(map(str, found["loc"])), 100)
    if found["type"] == "missing":
        return f"it has no {place}"
    given = shorten(reprlib.repr(found["input"]), 40)
    told = found["msg"].removeprefix("Input should be ")
    return f"{place + ': ' if place else ''}expected {told}, got {given}"
