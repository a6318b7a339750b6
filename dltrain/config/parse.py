"""Parse YAML into a tree from PyYAML's events: limited in size, without tags or Python objects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from dltrain.checkpoints.atomic_files import open_named
from dltrain.config.problems import ConfigError, Position, Problem
from dltrain.config.tree import List, Mapping, Node, Scalar, plain, resolve

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 10_000

_UNUSABLE = re.compile("[\0\ud800-\udfff]")
_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # PyYAML's line breaks


def read(path: Path, problems: list[Problem]) -> Mapping:
    """Parse a file. Duplicate keys and keys that are not text are added to `problems`.

    Raises:
        OSError: The file can't be read.
        ConfigError: The file is not UTF-8, not YAML, empty or too large, or has a tag, a merge key
            or another part of YAML that configs do not support.
    """
    with open_named(path, pipe=True) as file:
        return tree_of(file.read(MAX_BYTES + 1), str(path), problems)


def tree_of(data: bytes, source: str, problems: list[Problem]) -> Mapping:
    """Parse the content of a file; see `read`.

    Raises:
        ConfigError: As in `read`.
    """
    if len(data) > MAX_BYTES:
        raise _refusal(f"the file is larger than {MAX_BYTES // 1024} KiB", Position(source))
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _refusal("the file is UTF-16; save it as UTF-8", Position(source))
    try:
        text = data.decode("utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise _refusal(message, Position(source, line, 1)) from None
    root = parse(text, source, problems)
    if isinstance(root, Scalar) and root.value is None:
        raise _refusal("the file is empty", Position(source, 1, 1))
    if not isinstance(root, Mapping):
        raise _refusal("expected `key: value` lines", root.position)
    return root


def parse(text: str, source: str, problems: list[Problem], *, numbered: bool = True) -> Node:
    """Parse a YAML text; `numbered` selects whether positions have line numbers.

    Raises:
        ConfigError: As in `read`.
    """
    return _Builder(text, source, problems, numbered).document()


def _refusal(message: str, position: Position) -> ConfigError:
    return ConfigError([Problem("", message, position)])


class _Builder:
    """Builds the tree from PyYAML's events; stops at the first fatal problem."""

    def __init__(self, text: str, source: str, problems: list[Problem], numbered: bool) -> None:
        self.text = text
        self.source = source
        self.lines = _LINE_BREAK.split(text) if numbered else None
        self.problems = problems
        self.anchors: dict[str, Node | None] = {}  # None while the node is open
        self.num_nodes = 0
        self.events = self._events()

    def document(self) -> Node:
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            return Scalar(None, "", self.at(event))
        root = self.node(next(self.events), depth=1)
        extra = next(self.events)
        if not isinstance(extra, yaml.StreamEndEvent):
            raise _refusal("a second document starts here; expected one", self.at(extra))
        return root

    def _events(self) -> Iterator[Any]:
        """Yield the events except the start of the stream and the ends of documents."""
        try:
            for event in yaml.parse(self.text, Loader=yaml.SafeLoader):
                if not isinstance(event, (yaml.StreamStartEvent, yaml.DocumentEndEvent)):
                    yield event
        except yaml.MarkedYAMLError as error:
            message = f"not YAML: {error.problem}"
            if error.context and error.context_mark:
                message += f" {error.context} (from line {error.context_mark.line + 1})"
            mark = error.problem_mark
            assert mark is not None  # the scanner and the parser always set it
            raise _refusal(message, self.position(mark.line, mark.column, 1)) from None
        except ReaderError as error:
            before = _LINE_BREAK.split(self.text[: error.position])
            position = self.position(len(before) - 1, len(before[-1]), 0)
            character = self.text[error.position]
            raise _refusal(f"character {character!a} is not allowed", position) from None
        except (ValueError, OverflowError):  # a `\U` escape or a %YAML version out of range
            raise _refusal("not YAML: a number is out of range", Position(self.source)) from None

    def node(self, event: Any, depth: int) -> Node:
        at = self.at(event)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event.anchor, depth, at)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise _refusal(f"tag {tag!r} is not allowed; expected a plain value", at)
        if depth > MAX_DEPTH:
            raise _refusal(f"nested deeper than {MAX_DEPTH} levels", at)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        self.count(1, at)
        if isinstance(event, yaml.MappingStartEvent):
            node = self.mapping(at, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(item := next(self.events), yaml.SequenceEndEvent):
                items.append(self.node(item, depth + 1))
            node = List(tuple(items), at)
        else:
            node = self.scalar(event, at)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def scalar(self, event: Any, at: Position) -> Scalar:
        if _UNUSABLE.search(event.value):
            raise _refusal("escapes for NUL and for surrogates are not allowed", at)
        value = resolve(event.value) if event.implicit[0] else event.value
        return Scalar(value, event.value, at)

    def mapping(self, at: Position, depth: int) -> Mapping:
        node = Mapping({}, {}, at)
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.node(event, depth + 1)
            name = None if isinstance(event, yaml.AliasEvent) else plain(key)
            if name == "<<" and isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
                raise _refusal("merge keys are not allowed; use `extends`", key.position)
            value = self.node(next(self.events), depth + 1)
            if not isinstance(name, str):
                self.soft("a key must be text; put it in quotes", key.position)
            elif name in node.values:
                line = node.keys[name].line
                self.soft(f"duplicate key {name!r}, first on line {line}", key.position)
            else:
                node.values[name], node.keys[name] = value, key.position
        return node

    def alias(self, anchor: str, depth: int, at: Position) -> Node:
        if anchor not in self.anchors:
            raise _refusal(f"alias '*{anchor}' has no anchor above it", at)
        node = self.anchors[anchor]
        if node is None:
            raise _refusal(f"alias '*{anchor}' contains itself", at)
        size, height = _size_and_height(node)
        self.count(size, at)
        if depth + height - 1 > MAX_DEPTH:
            raise _refusal(f"nested deeper than {MAX_DEPTH} levels", at)
        return node

    def count(self, added: int, at: Position) -> None:
        self.num_nodes += added
        if self.num_nodes > MAX_NODES:
            raise _refusal(
                f"more than {MAX_NODES:,} keys and values, including those of aliases", at
            )

    def soft(self, message: str, position: Position) -> None:
        self.problems.append(Problem("", message, position))

    def at(self, event: Any) -> Position:
        start, end = event.start_mark, event.end_mark
        width = end.column - start.column if end.line == start.line else None
        return self.position(start.line, start.column, width)

    def position(self, line: int, column: int, width: int | None) -> Position:
        if self.lines is None:
            return Position(self.source)
        text = self.lines[line]
        if width is None:
            width = len(text.rstrip()) - column
        return Position(self.source, line + 1, column + 1, max(1, width), text)


def _size_and_height(node: Node) -> tuple[int, int]:
    """Return the number of nodes, including keys and aliased nodes, and the number of levels."""
    if isinstance(node, Scalar):
        return 1, 1
    keys, inner = (
        (0, node.items) if isinstance(node, List) else (len(node.keys), node.values.values())
    )
    children = [_size_and_height(child) for child in inner]
    size = 1 + keys + sum(size for size, _ in children)
    return size, 1 + max((height for _, height in children), default=0)
