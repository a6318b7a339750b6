"""CSV files as columns of cells, strictly: every row whole, no cell missing."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from dltrain.data.utf8 import read_utf8
from dltrain.errors import DataError, brief

MISSING = frozenset({"", "na", "n/a", "nan", "null", "?"})
"""Cells, in lower case, that stand for no value."""


@dataclass(frozen=True)
class Table:
    """A CSV file's cells, column by column, as `read_table` checked them.

    Attributes:
        path: The file.
        lines: The line number of each row.
        columns: Name to cells.
        naming: What a row is called in errors.
    """

    path: Path
    lines: list[int]
    columns: dict[str, list[str]]
    naming: str = "{path}:{line}"

    def place(self, row: int) -> str:
        """What the row is called in errors."""
        return self.naming.format(path=self.path, line=self.lines[row])

    def column(self, name: str) -> list[str]:
        """The cells of a column; DataError if there is none of that name."""
        if name not in self.columns:
            raise DataError(
                f"{self.path}: has no column {name!r}; it has {brief(', '.join(self.columns), 300)}"
            )
        return self.columns[name]

    def numbers(self, name: str) -> list[float]:
        """The cells of a column as numbers; DataError, with the line, where one is none."""
        values = []
        for row, cell in enumerate(self.column(name)):
            value = number(cell)
            if value is None:
                raise DataError(
                    f"{self.place(row)}: {brief(name)!r} is {brief(cell)!r}; a number is wanted"
                )
            values.append(value)
        return values


def read_table(path: Path, delimiter: str, *, any_cell: bool = False) -> Table:
    """Reads a CSV file with a header, in UTF-8.

    Args:
        path: The file.
        delimiter: What stands between two cells.
        any_cell: Whether a cell may hold anything, as text does: "null" is a word there.

    Raises:
        DataError: The file can't be read, a row has more or fewer cells than the header, a cell is
            empty or not a finite number where it looks like one; with the line number.
    """
    lines: list[int] = []
    rows: list[list[str]] = []
    text = io.StringIO(read_utf8(path), newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not all(header) or len(set(header)) != len(header) or not header:
            names = brief(str(header), 300)
            raise DataError(f"{path}:1: column names must be there, and differ: {names}")
        for row in reader:
            if not row:  # an empty line
                continue
            cells = [cell.strip() for cell in row]
            _check_row(f"{path}:{reader.line_num}", header, cells, any_cell)
            lines.append(reader.line_num)
            rows.append(cells)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not a CSV file: {error}") from error
    if not rows:
        raise DataError(f"{path}: has no rows")
    columns = [list(cells) for cells in zip(*rows, strict=True)]
    return Table(path, lines, dict(zip(header, columns, strict=True)))


def _check_row(place: str, header: list[str], cells: list[str], any_cell: bool) -> None:
    if len(cells) != len(header):
        raise DataError(f"{place}: {len(cells)} cells, the header has {len(header)}")
    if any_cell:
        return
    for name, cell in zip(header, cells, strict=True):
        value = number(cell)
        if cell.lower() in MISSING or (value is not None and not math.isfinite(value)):
            raise DataError(
                f"{place}: {brief(name)!r} is {brief(cell) or 'empty'}; "
                "fill in a value or take the row out"
            )


def number(cell: str) -> float | None:
    """The cell's number, or None."""
    try:
        return None if "_" in cell else float(cell)  # Python takes 1_000 for a number
    except ValueError:
        return None
