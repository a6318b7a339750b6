"""A config with its reasons, and the commented YAML that they make."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dltrain.config.dump import dump
from dltrain.core.errors import shorten

LINE_WIDTH = 100
"""Columns of a line; a reason that would make it longer stands above."""
MAX_REASON_CHARACTERS = 400


@dataclass(frozen=True)
class Explained:
    """A value, and why it was chosen.

    Attributes:
        value: A scalar, a list, or the options of a component.
        why: In the user's terms; names from the data may hold anything.
        instead: What to write in its place where that does not suit; stands on a line of its own.
    """

    value: Any
    reason: str
    alternative: str = ""


@dataclass(frozen=True)
class Suggestion:
    """What was seen in some data, and the config that follows.

    Attributes:
        kind: What the data is, such as `pictures`.
        config: Key to value, or to `Because`; a component's options likewise.
        seen: What was found, by subject, each in a line.
        doubts: What could be otherwise, each with the option that decides it.
    """

    kind: str
    config: Mapping[str, Any]
    seen: Mapping[str, str]
    doubts: Sequence[str] = field(default_factory=list)


def render(config: Mapping[str, Any], head: Sequence[str]) -> str:
    """The config as YAML, each reason as a comment.

    Args:
        config: See `Suggestion`.
        head: Comments at the top, without their signs.
    """
    lines = [f"# {_one_line(line)}" for line in head]
    for key, value in config.items():
        lines += _entry(key, value)
    return "".join(f"{line}\n" for line in lines)


def _entry(key: str, given: Any) -> list[str]:
    if not isinstance(given, Explained):
        given = Explained(given, "")
    value, why = given.value, given.reason
    if isinstance(value, Mapping) and any(isinstance(v, Explained) for v in value.values()):
        options = [line for item in value.items() for line in _entry(*item)]
        return [*_comment(given), f"{key}:", *(f"  {line}" for line in options)]
    lines = dump({key: value}, inline=isinstance(value, Mapping)).splitlines()
    beside = f"{lines[0]}  # {_one_line(why)}"
    if why and len(lines) == 1 and len(beside) <= LINE_WIDTH - 2:
        return [beside]
    return [*_comment(given), *lines]


def _comment(given: Explained) -> list[str]:
    wrapped = textwrap.wrap(_one_line(given.reason), LINE_WIDTH - 4, break_on_hyphens=False)
    return [f"# {line}" for line in (*wrapped, given.alternative) if line]


def _one_line(text: str) -> str:
    return shorten(text, MAX_REASON_CHARACTERS)
