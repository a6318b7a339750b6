"""Class names and categories: text as the file spells it, in the order of its numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from decimal import Decimal, InvalidOperation

from dltrain.core.errors import shorten
from dltrain.data.table import parse_number

MAX_EXACT_INTEGER = 2**53
"""Whole numbers above this are not all different as float64."""

_PADDED = re.compile(r"[+-]?0\d+")
_WHOLE = re.compile(r"[+-]?\d+")


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """The different names, by number where all are numbers, else by their characters.

    Numbers are compared exactly; equal ones with different spellings stay apart, by spelling.
    """
    different = set(names)
    values = {name: _exact(name) for name in different}
    if None in values.values():
        return tuple(sorted(different))
    return tuple(sorted(different, key=lambda name: (values[name], name)))


def class_indices(names: Sequence[str], cells: Iterable[str]) -> list[int]:
    """The place of each cell among the names."""
    place = {name: number for number, name in enumerate(names)}
    return [place[cell] for cell in cells]


def find_non_number(cells: Collection[str]) -> tuple[str, str] | None:
    """A cell that makes a column one of names, not of numbers, and the reason; None for numbers.

    That is a cell that is no number, a whole number with leading zeros, such as a postal code, and
    one so large that a computer takes it for another of the column, as identifiers can be.
    """
    for cell in cells:
        if parse_number(cell) is None:
            return cell, "no number"
    for cell in cells:
        if _PADDED.fullmatch(cell):
            return cell, "a number with leading zeros"
    large: dict[float, Decimal] = {}
    for cell in cells:
        value = float(cell)
        if abs(value) >= MAX_EXACT_INTEGER and _WHOLE.fullmatch(cell):
            exact = Decimal(cell)
            if large.setdefault(value, exact) != exact:
                return cell, "a number so large that it can't be told from another"
    return None


def warn_about_spellings(
    warn: Callable[[str], None], name: str, cells: Sequence[str], location: Callable[[int], str]
) -> None:
    """Says where names are equal as numbers, such as 1 and 1.0, and so may be meant to be one.

    Args:
        say: Prints a line.
        name: The column.
        cells: Its cells, in the order of the rows.
        place: What a row is called.
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
    """The number that a name is; None where it is none, or not finite."""
    try:
        value = None if "_" in name else Decimal(name)
    except InvalidOperation:
        return None
    return value if value is not None and value.is_finite() else None
