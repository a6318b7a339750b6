"""Results as JSON holds them, and numbers as text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
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


def decimal(number: float, places: int = 3) -> str:
    """A number in full, without an exponent: 1234.568, 0.267, 6."""
    text = f"{number:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def value_text(value: float | None) -> str:
    """A metric's value; None was not finite."""
    return "not finite" if value is None else f"{value:.6g}"


def early_stop_text(stopped: Mapping[str, Any]) -> str:
    """Why early stopping ended a run, from `stopped_early` of its summary."""
    count = stopped["patience"]
    evaluations = "1 evaluation" if count == 1 else f"{count} evaluations"
    least = f" by more than {stopped['min_delta']:g}" if stopped["min_delta"] else ""
    return (
        f"stopped early at step {stopped['step']}: {stopped['metric']} has not improved{least} in "
        f"{evaluations}; it is {value_text(stopped['value'])}, and its best was "
        f"{value_text(stopped['best'])}"
    )
