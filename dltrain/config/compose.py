"""Merge several YAML sources into one tree: `extends`, then the file, then the command line."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from os.path import realpath
from pathlib import Path

from dltrain.config.parse import MAX_DEPTH, parse, read
from dltrain.config.problems import ConfigError, Position, Problem
from dltrain.config.shipped import find_config, unreadable
from dltrain.config.tree import List, Mapping, Node, Scalar
from dltrain.core.errors import UsageError
from dltrain.core.paths import expand_path

MAX_FILES = 8


def compose(path: Path, overrides: Iterable[str]) -> tuple[Mapping, list[Problem]]:
    """Merge a file, the files that it extends and `key=value` overrides.

    Returns:
        The tree, and those problems after which the rest of the tree can still be checked.

    Raises:
        UsageError: The file can't be read.
        ConfigError: One or more sources can't be used at all; holds every problem.
    """
    files = _Files()
    try:
        tree = files.read(path, chain=())
    except OSError as error:
        raise UsageError(unreadable(path, error)) from None
    # Overrides are merged with each other first, so that an option may precede its `name`.
    changes = reduce(merge_keys, map(files.override, overrides), _empty(tree.position))
    if files.refused:
        raise ConfigError(files.refused + files.problems)
    return merge_keys(tree, changes), files.problems


def merge(below: Node, above: Node) -> Node:
    """Merge the node `above` over the node `below`.

    Mappings are merged key by key, unless `name` changes. Options without a name over a bare name
    are options of that name. Keys that are numbers replace items of a list. Any other node replaces
    the one below.
    """
    if not isinstance(above, Mapping):
        return above
    if isinstance(below, Scalar) and isinstance(below.value, str) and "name" not in above.values:
        named = Mapping({"name": below}, {"name": below.position}, below.position)
        return merge_keys(named, above)
    if isinstance(below, List):
        return _replace_items(below, above)
    if not isinstance(below, Mapping) or _name_changes(below, above):
        return above
    return merge_keys(below, above)


def merge_keys(below: Mapping, above: Mapping) -> Mapping:
    """Merge two mappings; values of keys in both are merged too."""
    values = dict(below.values)
    for key, value in above.values.items():
        values[key] = merge(values[key], value) if key in values else value
    return Mapping(values, below.keys | above.keys, above.position)


def _name_changes(below: Mapping, above: Mapping) -> bool:
    old, new = below.values.get("name"), above.values.get("name")
    if not isinstance(old, Scalar) or not isinstance(new, Scalar):
        return False
    return old.value != new.value


def _replace_items(below: List, above: Mapping) -> Node:
    items = {str(index): item for index, item in enumerate(below.items)}
    if not above.values.keys() <= items.keys():
        return above
    for index, value in above.values.items():
        items[index] = merge(items[index], value)
    return List(tuple(items.values()), below.position)


class _Files:
    """Reads sources and collects their problems; a refused source becomes an empty mapping."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.refused: list[Problem] = []
        self.num_files = 0

    def read(self, path: Path, chain: tuple[str, ...]) -> Mapping:
        """Return a file merged over those that it extends; `chain` holds its descendants."""
        self.num_files += 1
        try:
            tree = read(path, self.problems)
        except ConfigError as error:
            self.refused += error.problems
            return _empty(Position(str(path)))
        bases = tree.values.pop("extends", None)
        tree.keys.pop("extends", None)
        if bases is None:
            return tree
        below = _empty(tree.position)
        for base in bases.items if isinstance(bases, List) else (bases,):
            below = merge_keys(below, self.extend(base, path, (*chain, realpath(path))))
        return merge_keys(below, tree)

    def extend(self, base: Node, path: Path, chain: tuple[str, ...]) -> Mapping:
        """Return the tree of a file that `path` extends."""
        if not isinstance(base, Scalar) or not isinstance(base.value, str):
            return self.refuse("expected a file or a list of files", base.position)
        try:
            target = find_config(expand_path(base.value), path.parent)
            if realpath(target) in chain:
                return self.refuse(f"{base.value} extends this file in turn", base.position)
            if self.num_files == MAX_FILES:
                return self.refuse(f"more than {MAX_FILES} files", base.position)
            if target.exists() and not target.is_file():  # reading a pipe would block
                return self.refuse(f"expected a file, got {target}", base.position)
            return self.read(target, chain)
        except OSError as error:
            message = unreadable(error.filename, error)
        except ValueError as error:  # an environment variable is not set
            message = str(error)
        return self.refuse(message, base.position)

    def override(self, override: str) -> Mapping:
        """Parse `a.b=value` into a tree."""
        at = Position(f"command line: {' '.join(override.split())[:100]}")
        path, equals, text = override.partition("=")
        *parents, last = path.strip().split(".")
        if not (equals and text.strip() and last and all(parents)) or len(parents) >= MAX_DEPTH:
            self.problems.append(Problem("", "expected key=value, such as train.epochs=3", at))
            return _empty(at)
        if (parents or [last])[0] == "extends":
            return self.refuse("only a file can extend another", at)
        try:
            value = parse(text, at.source, self.problems, numbered=False)
        except ConfigError as error:
            self.refused += error.problems
            return _empty(at)
        tree = Mapping({last: value}, {last: at}, at)
        for segment in reversed(parents):
            tree = Mapping({segment: tree}, {segment: at}, at)
        return tree

    def refuse(self, message: str, at: Position) -> Mapping:
        self.refused.append(Problem("extends", message, at))
        return _empty(at)


def _empty(at: Position) -> Mapping:
    return Mapping({}, {}, at)
