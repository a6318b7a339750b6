"""Tables from CSV and TSV files: every row whole, every cell as the file spells it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dltrain.core.errors import DataError, shorten
from dltrain.core.option_types import Quote

MISSING = frozenset({"", "na", "n/a", "nan", "null", "?"})
"""Cells, in lower case, that stand for no value."""


@dataclass(frozen=True)
class Table:
    """The cells of a file, column by column.

    Attributes:
        path: The file.
        lines: Line on which each row begins.
        columns: Name to cells, stripped of white space at both ends.
        naming: What a row is called in errors.
        quote: Option that the file was read with.
        unusable: Names of columns that can't be told apart: empty ones, and those that come twice.
    """

    path: Path
    lines: list[int]
    columns: dict[str, list[str]]
    location_format: str = "{path}:{line}"
    quote: Quote = "auto"
    ambiguous: tuple[str, ...] = ()

    def location(self, row: int) -> str:
        """What the row is called in errors."""
        return self.location_format.format(path=self.path, line=self.lines[row])

    def column(self, name: str) -> list[str]:
        """The cells of a column; DataError if there is none of that name."""
        if name in self.ambiguous:
            raise DataError(f"{self.path}:1: several columns are called {shorten(name)!r}")
        if name not in self.columns:
            names = shorten(", ".join(self.columns), 300)
            hint = ""
            if name in {other.strip('"') for other in self.columns}:
                hint = "; the names are in quotes: set quote: '\"'"
            raise DataError(f"{self.path}: has no column {name!r}; it has {names}{hint}")
        return self.columns[name]

    def require_names(self) -> None:
        """Raises DataError where a column can't be told from others by its name."""
        if self.ambiguous:
            names = ", ".join(map(repr, self.ambiguous))
            raise DataError(
                f"{self.path}:1: column names must be there, and differ: {shorten(names, 300)}; "
                "change them, or choose others with features"
            )

    def require_values(self, names: Iterable[str]) -> None:
        """Raises DataError, with the line, where a cell of these columns holds no value."""
        columns = [(name, self.column(name)) for name in names]
        for row in range(len(self.lines)):
            for name, cells in columns:
                if is_missing(cells[row]):
                    raise DataError(
                        f"{self.location(row)}: {shorten(name)!r} is "
                        f"{shorten(cells[row]) or 'empty'}; fill in a value or take the row out"
                    )

    def numbers(self, name: str) -> list[float]:
        """The cells of a column as numbers; DataError, with the line, where one is none."""
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
    """Whether a cell stands for no value: it is empty, or a word such as `NA`, `nan` or `inf`."""
    if cell.lower() in MISSING:
        return True
    value = parse_number(cell)
    is_word = not any(map(str.isdigit, cell))  # 1e999 is a number, if one too large to compute with
    return value is not None and not math.isfinite(value) and is_word


def parse_number(cell: str) -> float | None:
    """The cell's number, or None."""
    try:
        return None if "_" in cell else float(cell)  # Python takes 1_000 for a number
    except ValueError:
        return None
