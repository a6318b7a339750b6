"""CSV and TSV files: detection of their layout, and reading into tables."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from dltrain.core.errors import DataError, OptionError, shorten
from dltrain.core.option_types import Quote
from dltrain.data.table import Table, parse_number
from dltrain.data.utf8 import read_utf8

DELIMITERS = (",", ";", "\t", "|")
"""Delimiters tried when the file's own is unknown."""

MAX_CELL_CHARACTERS = 2**31 - 1
"""Maximum number of characters in a cell for Python's csv module; its default is 131,072."""

Delimiter = Annotated[str, Field(pattern=r'^[^\r\n"]$')]


class Layout(NamedTuple):
    """Delimiter between cells, and quote character around cells (None for no quoting)."""

    delimiter: str
    quote: str | None

    def non_default_options(self, path: Path) -> dict[str, str | None]:
        """Return the options of `read_table` that select this layout."""
        options: dict[str, str | None] = {}
        if self.delimiter != usual_delimiter(path):
            options["delimiter"] = self.delimiter
        if self.quote != usual_quote(self.delimiter):
            options["quote"] = self.quote
        return options


class _Row(NamedTuple):
    """A row of a file: numbers of its first and last line, from 1, and its unprocessed cells."""

    first: int
    last: int
    cells: list[str]


def usual_delimiter(path: Path) -> str:
    """Return a tab for .tsv and .tab files, otherwise a comma."""
    return "\t" if path.suffix.lower() in (".tsv", ".tab") else ","


def usual_quote(delimiter: str) -> str | None:
    """Return None for tab-separated files, otherwise a double quote."""
    return None if delimiter == "\t" else '"'


def read_table(path: Path, delimiter: str | None = None, quote: Quote = "auto") -> Table:
    """Read a CSV or TSV file with a header, in UTF-8; cells are not validated.

    Args:
        path: The file.
        delimiter: Character between cells (default: `usual_delimiter`).
        quote: Character that encloses cells, None for none; `auto` is `usual_quote`, and rejects a
            quoted cell that contains whole rows.

    Raises:
        DataError: The file can't be read, a quoted cell does not end, or a row has more or fewer
            cells than the header; with the line number.
        OptionError: The quote equals the delimiter.
    """
    delimiter = delimiter or usual_delimiter(path)
    layout = Layout(delimiter, usual_quote(delimiter) if quote == "auto" else quote)
    if layout.quote == delimiter:
        raise OptionError("quote", f"{quote!r} is the delimiter as well; choose another of the two")
    text = _read_text(path)
    try:
        header, *rows = _rows(path, text, layout, is_guess=quote == "auto")
    except DataError as error:
        raise DataError(f"{error}{_hint(path, text, layout)}") from error
    if not rows:
        raise DataError(f"{path}: has no rows")
    if len(header.cells) == 1 and (hint := _hint(path, text, layout)):
        raise DataError(f"{path}:1: has one column, {shorten(header.cells[0])!r}{hint}")
    names = [name.strip() for name in header.cells]
    columns = {
        name: [cell.strip() for cell in cells]
        for name, *cells in zip(names, *(row.cells for row in rows), strict=True)
        if name and names.count(name) == 1
    }
    unusable = tuple(name for name in dict.fromkeys(names) if name not in columns)
    if not columns:
        raise DataError(
            f"{path}:1: column names must be non-empty and unique, got {shorten(str(names), 300)}"
        )
    return Table(path, [row.first for row in rows], columns, quote=quote, ambiguous=unusable)


def read_header(path: Path, layout: Layout) -> list[str]:
    """Return the names in a file's first row; empty if it can't be read with this layout."""
    text = _read_text(path)
    try:
        return [name.strip() for name in next(_parse_rows(text, layout), _Row(1, 1, [])).cells]
    except csv.Error:
        return []


def detect_layout(path: Path) -> Layout:
    """Return the layout with which a file is a table of at least two columns, or the usual one.

    Of several matching delimiters, the one with the most columns is selected. If the file is not a
    table with the usual quoting of any delimiter, the other quoting is tried.
    """
    return _detect_layout(path, _read_text(path)) or Layout(
        usual := usual_delimiter(path), usual_quote(usual)
    )


def _detect_layout(path: Path, text: str) -> Layout | None:
    usual = usual_delimiter(path)
    delimiters = sorted(DELIMITERS, key=lambda delimiter: delimiter != usual)
    for is_usual in (True, False):
        best, most = None, 1
        for delimiter in delimiters:
            has_quotes = (usual_quote(delimiter) is not None) == is_usual
            layout = Layout(delimiter, '"' if has_quotes else None)
            names = _names_if_table(path, text, layout)
            if len(names) > most:
                if all(len(name) > 1 and name[0] == name[-1] == '"' for name in names):
                    layout = Layout(delimiter, '"')
                best, most = layout, len(names)
        if best is not None:
            return best
    return None


def _names_if_table(path: Path, text: str, layout: Layout) -> list[str]:
    """Return the header's cells if every row has as many; otherwise an empty list."""
    try:
        header, *rows = _rows(path, text, layout, is_guess=True)
    except DataError:
        return []
    return header.cells if rows else []


def _hint(path: Path, text: str, layout: Layout) -> str:
    """Return a hint with the options that make the file a table; empty if there are none."""
    likely = _detect_layout(path, text)
    if likely is None or likely == layout:
        return ""
    options = likely.non_default_options(path)
    if likely.delimiter != layout.delimiter:
        options["delimiter"] = likely.delimiter
    else:
        options["quote"] = likely.quote
    parts = [f"{name}: {json.dumps(value)}" for name, value in options.items()]  # as YAML's tab
    return f"; it is a table with {' and '.join(parts)}"


def _read_text(path: Path) -> str:
    text = read_utf8(path)
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise DataError(f"{path}:{line}: has a NUL character; save the table as text in UTF-8")
    return text


def _parse_rows(text: str, layout: Layout) -> Iterator[_Row]:
    """Yield the rows, without empty lines; raise csv.Error for a syntax error."""
    csv.field_size_limit(MAX_CELL_CHARACTERS)  # global to the process, so never lowered again
    reader = csv.reader(
        io.StringIO(text, newline="\n" if "\n" in text else ""),  # "" also splits at "\r"
        delimiter=layout.delimiter,
        quotechar=layout.quote,
        quoting=csv.QUOTE_MINIMAL if layout.quote else csv.QUOTE_NONE,
        strict=True,
    )
    first = 1
    for cells in reader:
        if cells:
            yield _Row(first, reader.line_num, cells)
        first = reader.line_num + 1


def _line_end(text: str) -> str:
    """Return a line feed, or a carriage return if the file has no line feed."""
    return "\n" if "\n" in text else "\r"


def _rows(path: Path, text: str, layout: Layout, *, is_guess: bool) -> list[_Row]:
    """Return the header and the rows, all of the same length.

    Args:
        path: The file.
        text: Its content.
        layout: Its layout.
        is_guess: Whether to reject a quoted cell that contains whole rows.
    """
    rows: list[_Row] = []
    mistake = ""
    try:
        for row in _parse_rows(text, layout):
            if rows and len(row.cells) != len(rows[0].cells):
                extent = f"; its quotes end at line {row.last}" if row.last > row.first else ""
                mistake = (
                    f"{path}:{row.first}: {len(row.cells)} cells, "
                    f"the header has {len(rows[0].cells)}{extent}"
                )
                break
            rows.append(row)
    except csv.Error as error:
        first = rows[-1].last + 1 if rows else 1
        mistake = _describe_syntax_error(path, text, layout, first) or f"{path}:{first}: {error}"
    if is_guess and layout.quote:  # an earlier unmatched quote is the first error
        _require_no_rows_in_cells(path, text, rows, layout.delimiter, layout.quote)
    if mistake:
        raise DataError(mistake)
    if not rows:
        raise DataError(f"{path}:1: expected column names, but the file is empty")
    return rows


def _describe_syntax_error(path: Path, text: str, layout: Layout, first: int) -> str:
    """Describe the syntax error in the row that begins on a line; empty if none is found.

    Python's csv module reports only the line where parsing failed, not the one of the open quote.
    """
    end_of_line = _line_end(text)
    place = sum(len(line) + 1 for line in text.split(end_of_line)[: first - 1])
    end_of_cell = re.compile(f"[{re.escape(layout.delimiter)}\r\n]|\\Z")

    def location(place: int) -> str:
        return f"{path}:{text.count(end_of_line, 0, place) + 1}"

    while place < len(text):
        opened = place
        if layout.quote and text.startswith(layout.quote, place):
            place += 1
            while (place := text.find(layout.quote, place)) >= 0:
                if not text.startswith(layout.quote, place + 1):
                    break
                place += 2  # a doubled quote is one inside the cell
            if place < 0:
                return f"{location(opened)}: the quoted cell ({layout.quote}) never ends"
            rest = text[place + 1 : place + 50].partition(end_of_line)[0]
            if not end_of_cell.match(rest):
                closed = text.count(end_of_line, opened, place)
                where = f" {closed} lines below" if closed else ""
                found = shorten(rest, 30)
                return f"{location(opened)}: {found!r} follows the cell's closing quote{where}"
        found = end_of_cell.search(text, place)
        place = found.start() if found else len(text)
        if text.startswith("\r", place) and text[place + 1 : place + 2] not in ("", "\r", "\n"):
            return f"{location(place)}: a carriage return inside a line; put the cell in quotes"
        place += 1
    return ""


def _require_no_rows_in_cells(
    path: Path, text: str, rows: Sequence[_Row], delimiter: str, quote: str
) -> None:
    """Raise DataError if each line of a cell looks like a row: an unmatched quote contains them.

    Every line must have cells of all other columns that resemble the cells of other rows; or, if
    more rows may be contained than remain, those of the other lines.
    """
    long = [row for row in rows[1:] if row.last > row.first]
    if not long:
        return
    lines = text.split(_line_end(text))
    others = [row.cells for row in rows[1:] if row.last == row.first]
    usual = [_similarity_test(cells) for cells in zip(*others, strict=True)]
    for row in long:
        broken = [place for place, cell in enumerate(row.cells) if _line_end(text) in cell]
        if (
            len(broken) != 1 or quote in row.cells[broken[0]]
        ):  # doubled quotes indicate correct quoting
            continue
        before, after = broken[0], len(row.cells) - broken[0] - 1
        parts = [
            [cell.strip().strip(quote) for cell in line.split(delimiter)]
            for line in lines[row.first - 1 : row.last]
        ]
        if any(len(cells) < len(row.cells) for cells in parts):
            continue
        parts = [[*cells[:before], *cells[len(cells) - after :]] for cells in parts]
        columns = [*zip(*parts, strict=True)]
        tests = [*usual[:before], *usual[before + 1 :]]
        if len(others) < len(parts):
            tests = [_similarity_test(cells) for cells in columns]
        if any(tests) and all(
            test is None or all(map(test, cells))
            for test, cells in zip(tests, columns, strict=True)
        ):
            raise DataError(
                f"{path}:{row.first}: the quoted cell contains whole rows, to line {row.last}; "
                f"set quote: '{quote}' if it is one cell"
            )


def _similarity_test(cells: Sequence[str]) -> Callable[[str], bool] | None:
    """Return a test whether a cell resembles those of a column; None if they are all different."""
    values = {cell.strip() for cell in cells}
    if len(values) <= len(cells) / 2:
        return values.__contains__
    are_numbers = all(parse_number(value) is not None for value in values)
    return (lambda cell: parse_number(cell) is not None) if are_numbers else None
