"""Results as JSON and CSV hold them, and numbers as text."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""Signs, also of full width, that make a spreadsheet take a cell for a formula."""


def to_jsonable(value: Any) -> Any:
    """A result in JSON's own types; a number that is not finite becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: to_jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_decimal(number: float, places: int = 3) -> str:
    """A number in full, without an exponent: 1234.568, 0.267, 6."""
    text = f"{number:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_value(value: float | None) -> str:
    """A metric's value; None was not finite."""
    return "not finite" if value is None else f"{value:.6g}"


def describe_early_stop(stopped: Mapping[str, Any]) -> str:
    """Why early stopping ended a run, from `stopped_early` of its summary."""
    count = stopped["patience"]
    evaluations = "1 evaluation" if count == 1 else f"{count} evaluations"
    least = f" by more than {stopped['min_delta']:g}" if stopped["min_delta"] else ""
    return (
        f"stopped early at step {stopped['step']}: {stopped['metric']} has not improved{least} in "
        f"{evaluations}; it is {format_value(stopped['value'])}, and its best was "
        f"{format_value(stopped['best'])}"
    )


def to_csv(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV that a spreadsheet opens without computing anything.

    A text that it would take for a formula gets an apostrophe in front; numbers stay numbers.
    """
    file = io.StringIO()
    for row in rows:
        cells = [_harmless(cell) for cell in row]
        # The csv module would leave these bare, at which other programs end the line or the cell.
        bare = any(isinstance(cell, str) and set(cell) & set("\r;\t") for cell in cells)
        quoting = csv.QUOTE_NONNUMERIC if bare else csv.QUOTE_MINIMAL
        csv.writer(file, lineterminator="\n", quoting=quoting).writerow(cells)
    return file.getvalue()


def _harmless(cell: Any) -> Any:
    if not isinstance(cell, str) or _is_number(cell):
        return cell
    is_formula = cell.lstrip().startswith(FORMULA) or cell.startswith(("\t", "\r", "\n"))
    return f"'{cell}" if is_formula else cell


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII) is not None
