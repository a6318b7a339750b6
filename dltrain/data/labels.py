"""Class names and categories: text as written in the file, and its order."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from decimal import Decimal, InvalidOperation

from dltrain.core.errors import shorten
from dltrain.data.table import parse_number

MAX_EXACT_INTEGER = 2**53
"""Largest integer up to which all integers are distinct as float64."""

_PADDED = re.compile(r"[+-]?0\d+")
_WHOLE = re.compile(r"[+-]?\d+")


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct names, sorted as numbers if all are numbers, otherwise as text.

    Numbers are compared exactly; equal numbers with different spellings remain distinct.

    >>> sorted_names(["10", "9", "10"]), sorted_names(["b", "10", "9"])
    (('9', '10'), ('10', '9', 'b'))
    """
    distinct = set(names)
    values = {name: _exact(name) for name in distinct}
    if None in values.values():
        return tuple(sorted(distinct))
    return tuple(sorted(distinct, key=lambda name: (values[name], name)))


def class_indices(names: Sequence[str], cells: Iterable[str]) -> list[int]:
    """Return the index of each cell among the names."""
    index = {name: number for number, name in enumerate(names)}
    return [index[cell] for cell in cells]


def find_non_number(cells: Collection[str]) -> tuple[str, str] | None:
    """Return a cell that makes a column categorical, and the reason; None for a numeric column.

    Such a cell is not a number, or an integer with leading zeros, such as a postal code, or an
    integer so large that it equals another one of the column as float64, as identifiers may.
    """
    for cell in cells:
        if parse_number(cell) is None:
            return cell, "not a number"
    for cell in cells:
        if _PADDED.fullmatch(cell):
            return cell, "a number with leading zeros"
    large: dict[float, Decimal] = {}
    for cell in cells:
        value = float(cell)
        if abs(value) >= MAX_EXACT_INTEGER and _WHOLE.fullmatch(cell):
            exact = Decimal(cell)
            if large.setdefault(value, exact) != exact:
                return cell, "a number so large that it can't be distinguished from another"
    return None


def warn_about_spellings(
    warn: Callable[[str], None], name: str, cells: Sequence[str], location: Callable[[int], str]
) -> None:
    """Warn if names are equal as numbers, such as 1 and 1.0, and so may be meant to be one.

    Args:
        warn: Function that shows a warning.
        name: Name of the column.
        cells: Cells of all rows.
        location: Function that returns a row's name in messages.
    """
    rows: dict[str, int] = {}
    for row, cell in enumerate(cells):
        rows.setdefault(cell, row)
    spelled: dict[Decimal, str] = {}
    for cell, row in rows.items():
        value = _exact(cell)
        if value is None:
            continue
        first = spelled.setdefault(value, cell)
        if first != cell:
            warn(
                f"{location(row)}: {shorten(name)!r} is {shorten(cell)!r}, and {shorten(first)!r} "
                f"in {location(rows[first])}: names that differ in spelling are distinct; "
                "use one spelling if they mean the same"
            )
            return


def _exact(name: str) -> Decimal | None:
    """Return the number that a name represents; None if there is none, or it is not finite."""
    try:
        value = None if "_" in name else Decimal(name)
    except InvalidOperation:
        return None
    return value if value is not None and value.is_finite() else None
