"""Config suggestions with reasons, and their rendering as commented YAML."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dltrain.config.dump import dump
from dltrain.core.errors import shorten

LINE_WIDTH = 100
"""Maximum number of characters in a line; longer reasons are placed above the key."""
MAX_REASON_CHARACTERS = 400


@dataclass(frozen=True)
class Explained:
    """A value with the reason for it.

    Attributes:
        value: A scalar, a list, or the options of a component.
        reason: Comment for the user; may contain arbitrary names from the data.
        alternative: YAML to use if the value does not suit, on a separate comment line.
    """

    value: Any
    reason: str
    alternative: str = ""


@dataclass(frozen=True)
class Suggestion:
    """A config for some data, and the observations that it is based on.

    Attributes:
        kind: Kind of data, such as `a table`.
        config: Mapping from keys to values or `Explained` values, recursively.
        seen: One-line observations by subject.
        doubts: Decisions that could be different, each with the option that changes it.
    """

    kind: str
    config: Mapping[str, Any]
    seen: Mapping[str, str]
    doubts: Sequence[str] = field(default_factory=list)


def render(config: Mapping[str, Any], head: Sequence[str]) -> str:
    """Render a config as YAML, with each reason as a comment.

    Args:
        config: See `Suggestion`.
        head: Lines of the comment at the top, without `#`.
    """
    lines = [f"# {_one_line(line)}" for line in head]
    for key, value in config.items():
        lines += _entry(key, value)
    return "".join(f"{line}\n" for line in lines)


def _entry(key: str, item: Any) -> list[str]:
    if not isinstance(item, Explained):
        item = Explained(item, "")
    value, reason = item.value, item.reason
    if isinstance(value, Mapping) and any(isinstance(v, Explained) for v in value.values()):
        options = [line for option in value.items() for line in _entry(*option)]
        return [*_comment(item), f"{key}:", *(f"  {line}" for line in options)]
    lines = dump({key: value}, inline=isinstance(value, Mapping)).splitlines()
    commented = f"{lines[0]}  # {_one_line(reason)}"
    if reason and len(lines) == 1 and len(commented) <= LINE_WIDTH - 2:
        return [commented]
    return [*_comment(item), *lines]


def _comment(item: Explained) -> list[str]:
    wrapped = textwrap.wrap(_one_line(item.reason), LINE_WIDTH - 4, break_on_hyphens=False)
    return [f"# {line}" for line in (*wrapped, item.alternative) if line]


def _one_line(text: str) -> str:
    return shorten(text, MAX_REASON_CHARACTERS)
