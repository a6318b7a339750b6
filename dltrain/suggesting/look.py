"""Finds out what kind of data lies at a path, and has it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dltrain.data.decode import SUFFIXES
from dltrain.data.idx import TRAIN_FILES, missing
from dltrain.data.readers import DELIMITERS
from dltrain.data.table import MISSING, Table, number, read_table
from dltrain.data.utf8 import one_line_end, read_utf8
from dltrain.errors import DataError, UsageError, brief
from dltrain.suggesting.cells import look_at
from dltrain.suggesting.draft import Suggestion
from dltrain.suggesting.pictures import of_folder, of_idx
from dltrain.suggesting.tables import Task, of_table
from dltrain.suggesting.target import find_target


@dataclass(frozen=True)
class Hints:
    """What the user says about the data.

    Attributes:
        target: The column to predict.
        text: The columns that hold text.
        task: Whether the target is a class or a value.
    """

    target: str | None = None
    text: tuple[str, ...] = ()
    task: Task | None = None


def suggest(path: Path, hints: Hints) -> Suggestion:
    """What is at a path, and a config for it.

    Raises:
        DataError: The data can't be used as it is; the message names file and record.
        UsageError: There is nothing there, or nothing that is known; or a hint does not fit.
    """
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder")
    if path.is_dir():
        _refuse_hints(path, hints)
        return _of_directory(path)
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        raise UsageError(f"{path}: one picture; name the folder that has a folder for each class")
    if suffix in (".csv", ".tsv"):
        return _of_table(path, "\t" if suffix == ".tsv" else None, hints)
    raise UsageError(
        f"{path}: not known; name a folder of pictures, a folder with MNIST's files, or a file "
        "that ends in .csv or .tsv"
    )


def _of_directory(path: Path) -> Suggestion:
    for folder in (path, path / "raw"):
        if not missing(folder, TRAIN_FILES):
            return of_idx(folder)
    files = sorted(p.name for p in path.iterdir() if p.suffix.lower() in (".csv", ".tsv"))
    folders = [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if files and not folders:
        raise UsageError(f"{path}: has {brief(', '.join(files), 200)}; name one file")
    return of_folder(path)


def _refuse_hints(path: Path, hints: Hints) -> None:
    if hints != Hints():
        raise UsageError(f"--target, --text and --task are for files with columns, not for {path}")


def _of_table(path: Path, delimiter: str | None, hints: Hints) -> Suggestion:
    header = one_line_end(read_utf8(path)).partition("\n")[0]
    delimiter = delimiter or max(DELIMITERS, key=header.count)
    table = read_table(path, delimiter, any_cell=True)
    _require_header(table, hints)
    columns = [look_at(name, cells, table.lines) for name, cells in table.columns.items()]
    target = find_target(path, columns, hints.target)
    _require_cells(table, delimiter)
    return of_table(table, delimiter, columns, target, hints.task)


def _require_header(table: Table, hints: Hints) -> None:
    """A column that is called 3.5 is a row, unless the user calls a column by its name."""
    odd = [name for name in table.columns if number(name) is not None]
    if odd and hints.target is None:
        raise DataError(
            f"{table.path}:1: {brief(odd[0])!r} stands where the name of a column is wanted; put "
            "a line with names above the rows, or say --target COLUMN if this is one"
        )


def _require_cells(table: Table, delimiter: str) -> None:
    """What the source refuses, with all columns that lack something."""
    try:
        read_table(table.path, delimiter)
    except DataError as error:
        for name, cells in table.columns.items():
            empty = [n for n, c in zip(table.lines, cells, strict=True) if c.lower() in MISSING]
            if empty:
                lines = brief(", ".join(map(str, empty)), 60)
                error.add_note(
                    f"{brief(name)!r} has no value in {len(empty):,} of {len(cells):,} rows: "
                    f"line{'s' if len(empty) > 1 else ''} {lines}"
                )
        raise
