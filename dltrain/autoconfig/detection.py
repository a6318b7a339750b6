"""Detection of the kind of data at a path, and the matching suggestion."""

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
"""Mean number of words per cell from which text takes precedence over other columns."""


@dataclass(frozen=True)
class Hints:
    """The user's options about the data.

    Attributes:
        target: Column to predict; None to detect it.
        text: Columns that contain text; None to detect them.
        task: Whether the target is a class or a value; None to detect it.
    """

    target: str | None = None
    text: tuple[str, ...] | None = None
    task: Task | None = None


def suggest(path: Path, hints: Hints) -> Suggestion:
    """Suggest a config for the data at a path.

    Raises:
        DataError: The data can't be used; the message names file and record.
        UsageError: The path does not exist, its kind is unknown, or a hint does not fit.
    """
    suffix = path.suffix.lower()
    if not path.exists():
        raise UsageError(f"{path}: no such file or directory")
    if path.is_file() and suffix in (*TABLE_SUFFIXES, *JSONL_SUFFIXES):
        return _suggest_from_columns(path, hints)
    if hints != Hints():
        raise UsageError(
            f"--target, --text, --no-text and --task apply to files with columns, not to {path}"
        )
    if path.is_dir():
        return _suggest_from_directory(path)
    if suffix == ".txt":
        return suggest_corpus(path)
    if suffix in SUFFIXES:
        raise UsageError(f"{path}: a single image; give the directory with one folder per class")
    raise UsageError(
        f"{path}: unknown kind of data; expected a directory with one folder of images per class, "
        f"a directory with MNIST's files, or a file that ends in {', '.join(FILE_SUFFIXES)}"
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
        raise UsageError(
            f"{path}: contains {shorten(', '.join(files), 200)}; give one of these files"
        )
    return suggest_image_folder(path)


def _has_no_header(folder: Path) -> bool:
    """Return whether the first line of SST-2's first file is a sentence with a label."""
    first = normalize_line_ends(read_utf8(folder / next(iter(SST2_FILES)))).partition("\n")[0]
    return first.endswith(("\t0", "\t1"))


def _suggest_from_columns(path: Path, hints: Hints) -> Suggestion:
    """Suggest a config for a file with columns: for texts if it has some, else for a table."""
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
            raise UsageError("--task regression: texts can only be classified")
        if others and not hints.text:
            target.doubts.append(_describe_unused(others, texts, is_jsonl))
        return suggest_texts(table, reading, texts, target)
    if is_jsonl:
        raise DataError(
            f"{path}: no column contains texts; tables without texts are read from .csv files only"
        )
    return suggest_table(table, reading, columns, target, hints.task)


def _text_columns(
    table: Table, columns: Sequence[ColumnSummary], hints: Hints
) -> list[ColumnSummary]:
    """Return the text columns that the user names, or the detected ones."""
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
    note = f"only the text is used ({text}), not {names}"
    return note if is_jsonl else f"{note}; --no-text uses those instead"


def _require_header(table: Table, hints: Hints) -> None:
    """Raise DataError if a column name is a number, unless the user names the target column."""
    odd = [name for name in table.columns if parse_number(name) is not None]
    if odd and hints.target is None:
        raise DataError(
            f"{table.path}:1: expected a column name, got {shorten(odd[0])!r}; add a header line, "
            "or give --target COLUMN if this is the header"
        )
