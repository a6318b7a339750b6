"""Plain data as the YAML that `parse` reads back as the same."""

from __future__ import annotations

from typing import Any

import yaml

from dltrain.config.tree import resolve
from dltrain.core.errors import escape_control_characters


def dump(value: Any, *, inline: bool = False) -> str:
    """Dicts, lists and scalars as YAML, in their order; lists of scalars stand on one line.

    Args:
        value: What is written.
        inline: Whether mappings of scalars stand on one line, too.
    """
    flow = None if inline else False
    text = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=flow,
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )
    # What can't be printed stands in double quotes, where YAML has the same escapes.
    return escape_control_characters(text)


class _Dumper(yaml.SafeDumper):
    """Quotes what `resolve` would read as something else, and writes short lists inline."""

    def ignore_aliases(self, data: Any) -> bool:
        """Equal lists are written twice rather than aliased."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if resolve(text) == text else "'"
    if not text.isprintable():  # a line break other than \n is only kept by an escape
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.SequenceNode:
    inline = not any(isinstance(item, dict | list) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=inline)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)
