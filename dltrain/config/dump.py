"""Write plain data as YAML that `parse` reads back unchanged."""

from __future__ import annotations

from typing import Any

import yaml

from dltrain.config.tree import resolve
from dltrain.core.errors import escape_control_characters


def dump(value: Any, *, inline: bool = False) -> str:
    """Format dicts, lists and scalars as YAML; keys keep their order.

    Args:
        value: Plain data. Lists of scalars are written on one line.
        inline: Whether mappings of scalars are written on one line too.
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
    # Text with unprintable characters is in double quotes, where YAML has the same escapes.
    return escape_control_characters(text)


class _Dumper(yaml.SafeDumper):
    """Quotes text that `resolve` would not read as text, and writes lists of scalars inline."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return True: equal lists are written twice instead of as an alias."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if resolve(text) == text else "'"
    if not text.isprintable():  # only an escape preserves a line break other than \n
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.SequenceNode:
    inline = not any(isinstance(item, dict | list) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=inline)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)
