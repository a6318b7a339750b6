"""JSONL files: one JSON object per line."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dltrain.core.errors import DataError, shorten
from dltrain.data.table import Table
from dltrain.data.utf8 import read_lines

JSONL_SUFFIXES = (".jsonl", ".ndjson")
"""Suffixes, in lower case, of JSONL files."""


def read_jsonl(path: Path, names: Sequence[str]) -> tuple[list[int], dict[str, list[str]]]:
    """Read the line number of each row of a JSONL file, and the cells by column.

    Raises:
        DataError: The file can't be read, or a line is not a JSON object with a text or a number
            in each of the columns.
    """
    rows = _jsonl_rows(path)
    columns: dict[str, list[str]] = {name: [] for name in names}
    for number, row in enumerate(rows, 1):
        for name, cells in columns.items():
            if not isinstance(row, dict) or name not in row:
                raise DataError(f"{path}:{number}: has no {name!r}")
            cell = _cell(row[name])
            if cell is None:
                raise DataError(
                    f"{path}:{number}: expected a text or a number in {name!r}, "
                    f"got {shorten(json.dumps(row[name]))}"
                )
            cells.append(cell)
    return list(range(1, len(rows) + 1)), columns


def scan_jsonl(path: Path) -> Table:
    """Read all columns that contain a text or a number in any row; other cells are empty.

    Raises:
        DataError: The file can't be read, or a line is not a JSON object.
    """
    rows = _jsonl_rows(path)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: not a JSON object")
    cells = [{name: _cell(value) for name, value in row.items()} for row in rows]
    names = dict.fromkeys(name for row in cells for name in row if row[name] is not None)
    columns = {name: [row.get(name) or "" for row in cells] for name in names}
    return Table(path, list(range(1, len(rows) + 1)), columns)


def _jsonl_rows(path: Path) -> list[Any]:
    """Return the value of each line."""
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            rows.append(json.loads(line, parse_int=_Literal, parse_float=_Literal))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not a JSON object") from error
    return rows


class _Literal(str):
    """A number as written in the file: 1 and 1.0, or two above 2**53, are distinct classes."""


def _cell(value: object) -> str | None:
    """Return a text without lone surrogates, a finite number or a boolean as text; else None."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, _Literal):
        return str(value) if math.isfinite(float(value)) else None
    if isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value):
        return value.strip()
    return None
