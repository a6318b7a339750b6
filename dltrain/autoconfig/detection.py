"""Finds out what kind of data lies at a path, and has it looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dltrain.autoconfig.column_types import ColumnSummary, summarize_column
from dltrain.autoconfig.config_draft import Suggestion
from dltrain.autoconfig.images import suggest_idx, suggest_image_folder
from dltrain.autoconfig.tables import Task, suggest_table
from dltrain.autoconfig.target import find_target
from dltrain.autoconfig.texts import suggest_corpus, suggest_sst2, suggest_texts
from dltrain.core.errors import DataError, UsageError, shorten
from dltrain.data.idx import TRAIN_FILES, missing_files
from dltrain.data.image_decoding import SUFFIXES
from dltrain.data.jsonl import JSONL_SUFFIXES, scan_jsonl
from dltrain.data.sst2 import FILES as SST2_FILES
from dltrain.data.table import Table, parse_number
from dltrain.data.table_reading import detect_layout, read_table
from dltrain.data.utf8 import normalize_line_ends, read_utf8

TABLE_SUFFIXES = (".csv", ".tsv")
FILE_SUFFIXES = (*TABLE_SUFFIXES, *JSONL_SUFFIXES, ".txt")
MIN_TEXT_WORDS = 8
"""Words; cells of so many are the text to learn from, though there are other columns."""


@dataclass(frozen=True)
class Hints:
    """What the user says about the data.

    Attributes:
        target: The column to predict.
        text: The columns that hold text; None where that is to be found out.
        task: Whether the target is a class or a value.
    """

    target: str | None = None
    text: tuple[str, ...] | None = None
    task: Task | None = None


def suggest(path: Path, hints: Hints) -> Suggestion:
    """What is at a path, and a config for it.

    Raises:
        DataError: The data can't be used as it is; the message names file and record.
        UsageError: There is nothing there, or nothing that is known; or a hint does not fit.
    """
    suffix = path.suffix.lower()
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder")
    if path.is_file() and suffix in (*TABLE_SUFFIXES, *JSONL_SUFFIXES):
        return _suggest_from_columns(path, hints)
    if hints != Hints():
        raise UsageError(
            f"--target, --text, --no-text and --task are for files with columns, not for {path}"
        )
    if path.is_dir():
        return _suggest_from_directory(path)
    if suffix == ".txt":
        return suggest_corpus(path)
    if suffix in SUFFIXES:
        raise UsageError(f"{path}: one picture; name the folder that has a folder for each class")
    raise UsageError(
        f"{path}: not known; name a folder of pictures, a folder with MNIST's files, or a file "
        f"that ends in {', '.join(FILE_SUFFIXES)}"
    )


def _suggest_from_directory(path: Path) -> Suggestion:
    for folder in (path, path / "raw"):
        if not missing_files(folder, TRAIN_FILES):
            return suggest_idx(folder)
    if all((path / name).is_file() for name in SST2_FILES) and _has_no_header(path):
        return suggest_sst2(path)
    files = sorted(p.name for p in path.iterdir() if p.suffix.lower() in FILE_SUFFIXES)
    folders = [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if files and not folders:
        raise UsageError(f"{path}: has {shorten(', '.join(files), 200)}; name one file")
    return suggest_image_folder(path)


def _has_no_header(folder: Path) -> bool:
    """Whether the first line of SST-2's first file is a sentence and a label."""
    first = normalize_line_ends(read_utf8(folder / next(iter(SST2_FILES)))).partition("\n")[0]
    return first.endswith(("\t0", "\t1"))


def _suggest_from_columns(path: Path, hints: Hints) -> Suggestion:
    """For files with columns: texts where there are some, else a table."""
    reading, is_jsonl = {}, path.suffix.lower() in JSONL_SUFFIXES
    if is_jsonl:
        table = scan_jsonl(path)
    else:
        reading = detect_layout(path).non_default_options(path)
        table = read_table(path, **reading)
        _require_header(table, hints)
    columns = [summarize_column(name, cells, table.lines) for name, cells in table.columns.items()]
    texts = _text_columns(table, columns, hints)
    target = find_target(path, [c for c in columns if c not in texts], hints.target)
    texts = [cells for cells in texts if cells is not target.cells]
    others = [c for c in columns if c.kind in ("number", "category") and c is not target.cells]
    if texts and (hints.text or is_jsonl or not others or _are_long(texts)):
        if hints.task == "regression":
            raise UsageError("--task regression: texts are told apart by classes only")
        if others and not hints.text:
            target.doubts.append(_describe_unused(others, texts, is_jsonl))
        return suggest_texts(table, reading, texts, target)
    if is_jsonl:
        raise DataError(f"{path}: no column has texts, and tables are read from .csv files only")
    return suggest_table(table, reading, columns, target, hints.task)


def _text_columns(
    table: Table, columns: Sequence[ColumnSummary], hints: Hints
) -> list[ColumnSummary]:
    """The columns of text that the user names, or those that look so."""
    if hints.text is None:
        return [c for c in columns if c.kind == "text" and c.name != hints.target]
    for name in hints.text:
        if name not in table.columns:
            names = shorten(", ".join(table.columns), 300)
            raise UsageError(f"--text: {table.path} has no column {name!r}; it has {names}")
        if name == hints.target:
            raise UsageError(f"--text and --target both name {name!r}")
    return [cells for cells in columns if cells.name in hints.text]


def _are_long(texts: Sequence[ColumnSummary]) -> bool:
    return max(cells.words for cells in texts) >= MIN_TEXT_WORDS


def _describe_unused(
    others: Sequence[ColumnSummary], texts: Sequence[ColumnSummary], is_jsonl: bool
) -> str:
    names, text = (shorten(", ".join(c.name for c in cells), 200) for cells in (others, texts))
    told = f"only the text is learnt from ({text}), not {names}"
    return told if is_jsonl else f"{told}; --no-text takes those instead"


def _require_header(table: Table, hints: Hints) -> None:
    """A column that is called 3.5 is a row, unless the user calls a column by its name."""
    odd = [name for name in table.columns if parse_number(name) is not None]
    if odd and hints.target is None:
        raise DataError(
            f"{table.path}:1: {shorten(odd[0])!r} stands where the name of a column is wanted; put "
            "a line with names above the rows, or say --target COLUMN if this is one"
        )
