"""Tables whose cells are text, exactly as written in the file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dltrain.core.errors import DataError, shorten
from dltrain.core.option_types import Quote

MISSING = frozenset({"", "na", "n/a", "nan", "null", "?"})
"""Cells, in lower case, that represent a missing value."""


@dataclass(frozen=True)
class Table:
    """The cells of a file, column by column.

    Attributes:
        path: The file.
        lines: Line number of each row's start.
        columns: Mapping from name to cells, without white space at both ends.
        naming: What a row is called in errors.
        quote: Option with which the file was read.
        unusable: Names of columns that can't be distinguished: empty and duplicate ones.
    """

    path: Path
    lines: list[int]
    columns: dict[str, list[str]]
    location_format: str = "{path}:{line}"
    quote: Quote = "auto"
    ambiguous: tuple[str, ...] = ()

    def location(self, row: int) -> str:
        """Return the row's name in error messages."""
        return self.location_format.format(path=self.path, line=self.lines[row])

    def column(self, name: str) -> list[str]:
        """Return the cells of a column.

        Raises:
            DataError: There is no column of that name, or several.
        """
        if name in self.ambiguous:
            raise DataError(f"{self.path}:1: several columns have the name {shorten(name)!r}")
        if name not in self.columns:
            names = shorten(", ".join(self.columns), 300)
            hint = ""
            if name in {other.strip('"') for other in self.columns}:
                hint = "; the names are in quotes: set quote: '\"'"
            raise DataError(f"{self.path}: has no column {name!r}; it has {names}{hint}")
        return self.columns[name]

    def require_names(self) -> None:
        """Raise DataError if a column has an empty or ambiguous name."""
        if self.ambiguous:
            names = ", ".join(map(repr, self.ambiguous))
            raise DataError(
                f"{self.path}:1: column names must be non-empty and unique, got "
                f"{shorten(names, 300)}; change them, or select other columns with features"
            )

    def require_values(self, names: Iterable[str]) -> None:
        """Raise DataError, with the line number, if a cell of these columns is missing."""
        columns = [(name, self.column(name)) for name in names]
        for row in range(len(self.lines)):
            for name, cells in columns:
                if is_missing(cells[row]):
                    raise DataError(
                        f"{self.location(row)}: {shorten(name)!r} is "
                        f"{shorten(cells[row]) or 'empty'}; fill in a value or remove the row"
                    )

    def numbers(self, name: str) -> list[float]:
        """Return the cells of a column as numbers.

        Raises:
            DataError: A cell is not a finite number; with the line number.
        """
        values = []
        for row, cell in enumerate(self.column(name)):
            value = parse_number(cell)
            if value is None or not math.isfinite(value):
                expected = "a number" if value is None else "a number within the range of float64"
                raise DataError(
                    f"{self.location(row)}: expected {expected} in {shorten(name)!r}, "
                    f"got {shorten(cell)!r}"
                )
            values.append(value)
        return values


def is_missing(cell: str) -> bool:
    """Return whether a cell represents a missing value: empty, or `NA`, `nan`, `inf` and the like.

    >>> is_missing("N/A"), is_missing("0")
    (True, False)
    """
    if cell.lower() in MISSING:
        return True
    value = parse_number(cell)
    is_word = not any(map(str.isdigit, cell))  # 1e999 is a number, although too large for float64
    return value is not None and not math.isfinite(value) and is_word


def parse_number(cell: str) -> float | None:
    """Return the number in a cell; None if it is not a number."""
    try:
        return None if "_" in cell else float(cell)  # Python accepts 1_000 as a number
    except ValueError:
        return None
