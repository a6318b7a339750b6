"""The content of a YAML file as a tree with the position of each key and value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

from dltrain.config.problems import Position

_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")
_FLOAT = re.compile(r"(?=.*[.eE])[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]{1,9})?")


@dataclass(frozen=True)
class Scalar:
    """A text, number, boolean or null, with its source text."""

    value: str | int | float | bool | None
    text: str
    position: Position


@dataclass(frozen=True)
class List:
    """A list of nodes."""

    items: tuple[Node, ...]
    position: Position


@dataclass(frozen=True)
class Mapping:
    """Nodes by key, with the position of each key."""

    values: dict[str, Node]
    keys: dict[str, Position]
    position: Position


Node: TypeAlias = Scalar | List | Mapping


def plain(node: Node) -> Any:
    """Convert a node to dicts, lists and scalars."""
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.values.items()}
    if isinstance(node, List):
        return [plain(item) for item in node.items]
    return node.value


def resolve(text: str) -> str | int | float | bool | None:
    """Return the value of an unquoted scalar by YAML 1.2's core schema, with decimal numbers only.

    `1e-3` is a number; `on`, `no`, `010`, `0x1f`, `1_000`, `12:30:00` and `2024-01-01` are text.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):  # an integer of more than 64 bits is text
        return int(text) if -(2**63) <= int(text) < 2**63 else text
    return float(text) if _FLOAT.fullmatch(text) else text
