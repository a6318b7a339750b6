"""Results as JSON holds them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any


def as_plain(value: Any) -> Any:
    """A result in JSON's own types; a number that is not finite becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
