"""Conversion of results to JSON and CSV, and formatting of numbers."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""Signs, also full-width ones, with which formulas of spreadsheets start."""


def to_jsonable(value: Any) -> Any:
    """Return a result as JSON-serializable types; a number that is not finite becomes None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: to_jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_decimal(number: float, places: int = 3) -> str:
    """Return a number without an exponent, such as 1234.568, 0.267 or 6."""
    text = f"{number:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_value(value: float | None) -> str:
    """Return the value of a metric as text; None stands for a value that was not finite."""
    return "not finite" if value is None else f"{value:.6g}"


def describe_early_stop(stopped: Mapping[str, Any]) -> str:
    """Return why early stopping ended a run, from `stopped_early` of its summary."""
    count = stopped["patience"]
    evaluations = "1 evaluation" if count == 1 else f"{count} evaluations"
    least = f" by more than {stopped['min_delta']:g}" if stopped["min_delta"] else ""
    return (
        f"stopped early at step {stopped['step']}: {stopped['metric']} has not improved{least} in "
        f"{evaluations}; it is {format_value(stopped['value'])}, and its best was "
        f"{format_value(stopped['best'])}"
    )


def to_csv(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV in which no cell is a formula of a spreadsheet.

    Text that looks like a formula is preceded by an apostrophe; numbers are unchanged.
    """
    file = io.StringIO()
    for row in rows:
        cells = [_harmless(cell) for cell in row]
        # Other programs end a line or a cell at these characters unless the cell is quoted.
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
