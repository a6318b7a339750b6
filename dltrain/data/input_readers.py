"""Reading of new files as model inputs, with the preprocessing of training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dltrain.core.data_spec import DataSpec, ImageInputs, TableInputs, TextInputs
from dltrain.core.errors import DataError
from dltrain.core.option_types import Quote
from dltrain.data.columns import encode
from dltrain.data.image_decoding import decode_image
from dltrain.data.images import ImageTransform
from dltrain.data.jsonl import JSONL_SUFFIXES, read_jsonl
from dltrain.data.table import Table
from dltrain.data.table_reading import DELIMITERS, Layout, read_header, read_table, usual_quote
from dltrain.data.tokenization import Encoder
from dltrain.data.utf8 import decode_utf8, read_utf8, split_lines

TABLE_SUFFIXES = (".csv", ".tsv", ".tab")
"""File suffixes, in lower case, of tables."""

FILE_SUFFIXES = (*TABLE_SUFFIXES, *JSONL_SUFFIXES, ".txt", ".text", ".log", ".md", ".json")
"""Suffixes, in lower case, that identify an input of a text model as a file."""


def read_inputs(spec: DataSpec, items: Sequence[str | Path]) -> tuple[Tensor, list[str]]:
    """Read images, rows of CSV files, or texts, as the model requires.

    Returns:
        (samples, *input_shape) float32, or (samples, tokens) int64, and a name for each sample: its
        file, file:line, or text.

    Raises:
        DataError: A file can't be read, or lacks a column that the model was trained on.
    """
    if spec.inputs.kind == "text":
        return read_texts(spec.inputs, items)
    paths = [Path(item) for item in items]
    if spec.inputs.kind == "image":
        return read_images(spec, paths), [str(path) for path in paths]
    tables = [_table(spec.inputs, path) for path in paths]
    rows = [encode(spec.inputs.columns, table, torch.float32) for table in tables]
    names = [f"{table.path}:{line}" for table in tables for line in table.lines]
    return torch.cat(rows), names


def read_texts(inputs: TextInputs, items: Sequence[str | Path]) -> tuple[Tensor, list[str]]:
    """Read texts, files with a text per line, text columns of tables, or `-` for standard input.

    A `Path` is a file; `is_file` decides for a str.

    Returns:
        (texts, tokens) int64, padded, and the texts: one for each line or row, including empty
        ones.

    Raises:
        DataError: A file can't be read or lacks a column, or there is no text at all.
    """
    texts = [text for item in items for text in _texts(inputs, item)]
    if not texts:
        raise DataError(f"{', '.join(map(str, items))}: no text found")
    return pad_texts(inputs, [*map(Encoder(inputs), texts)]), texts


def _texts(inputs: TextInputs, item: str | Path) -> list[str]:
    if item == "-":
        return split_lines(decode_utf8(sys.stdin.buffer.read(), "standard input"))
    if not is_file(item):
        return [str(item)]
    path = Path(item).expanduser()
    if path.is_dir() or not path.exists():
        what = "a directory" if path.is_dir() else "no such file"
        raise DataError(
            f"{path}: {what}; expected a file; to pass a text that looks like a path, give - and "
            "write it to standard input"
        )
    suffix = path.suffix.lower()
    if suffix in JSONL_SUFFIXES:
        columns = read_jsonl(path, inputs.columns)[1]
    elif suffix in TABLE_SUFFIXES:
        columns = read_new_table(path, inputs.columns, inputs.quote).columns
    else:
        return split_lines(read_utf8(path, pipe=True))
    return [" ".join(cells) for cells in zip(*map(columns.get, inputs.columns), strict=True)]


def is_file(item: str | Path) -> bool:
    """Return whether an input of a text model is a file, not a text.

    A str is a file if it exists, ends in one of `FILE_SUFFIXES`, begins with `/`, `./`, `../` or
    `~/`, or contains a `/` but no white space; then it must exist.

    >>> is_file("reviews.txt"), is_file("A fine film.")
    (True, False)
    """
    if isinstance(item, Path):
        return True
    if not item.strip() or "\n" in item:
        return False
    path = Path(item)
    try:
        if path.expanduser().exists():
            return True
    except (
        OSError,
        RuntimeError,
        ValueError,
    ):  # too long for a file name, or an unknown user's home directory
        return False
    has_space = any(map(str.isspace, item))
    begins = item.startswith(("/", "./", "../", "~/"))
    return begins or path.suffix.lower() in FILE_SUFFIXES or ("/" in item and not has_space)


def pad_texts(inputs: TextInputs, sequences: Sequence[Tensor]) -> Tensor:
    """Stack token ids of each text, (tokens,) int64, as (texts, tokens), padded at the end."""
    return pad_sequence([*sequences], batch_first=True, padding_value=inputs.padding)


def read_images(spec: DataSpec, paths: Sequence[Path]) -> Tensor:
    """Read image files of any size: (images, channels, height, width) float32, normalized."""
    if not isinstance(spec.inputs, ImageInputs):
        raise DataError("the model was trained on rows of a table, not on images")
    pixels = [decode_image(path, spec.input_shape, spec.inputs, pipe=True) for path in paths]
    return normalise_images(spec.inputs, torch.stack(pixels))


def normalise_images(inputs: ImageInputs, pixels: Tensor) -> Tensor:
    """Normalize pixels (images, channels, height, width) as in training, to float32."""
    transform = ImageTransform(inputs, dtype=torch.float32, device=torch.device("cpu"))
    return transform(pixels, torch.arange(len(pixels)), None)


def _table(inputs: TableInputs, path: Path) -> Table:
    """Read a table, with the delimiter for which its header has the columns of training."""
    wanted = [column.name for column in inputs.columns]
    table = read_new_table(path, wanted, inputs.quote)
    table.require_values(wanted)
    return table


def read_new_table(path: Path, wanted: Sequence[str], quote: Quote) -> Table:
    """Read a table for prediction, with any delimiter.

    Args:
        path: The file.
        wanted: Required columns; others are ignored.
        quote: Option that the training file was read with.

    Raises:
        DataError: The file can't be read, or lacks a column.
    """

    def num_matches(delimiter: str) -> int:
        enclosing = usual_quote(delimiter) if quote == "auto" else quote
        return len(set(wanted) & set(read_header(path, Layout(delimiter, enclosing))))

    table = read_table(path, max(DELIMITERS, key=num_matches), quote)
    for name in wanted:
        table.column(name)
    return table
