"""The JSON Schema of config files."""

from __future__ import annotations

from typing import Any

from dltrain.config import json_schema
from dltrain.config.plugins import load_entry_points, register_builtins


def schema() -> dict[str, Any]:
    """Return a JSON Schema (draft 2020-12) of every key and component, for editors."""
    register_builtins()
    load_entry_points()
    return json_schema()
