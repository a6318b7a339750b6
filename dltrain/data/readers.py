"""New files to model inputs, exactly as training's were."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dltrain.data.columns import encode
from dltrain.data.decode import decode_image
from dltrain.data.images import ImageTransform
from dltrain.data.table import (
    DELIMITERS,
    Layout,
    Table,
    read_header,
    read_table,
    usual_quote,
)
from dltrain.data.tokens import Encoder
from dltrain.data.utf8 import one_line_end, read_utf8
from dltrain.errors import DataError
from dltrain.spec import PADDING, DataSpec, ImageInputs, Quote, TableInputs, TextInputs


def read_inputs(spec: DataSpec, given: Sequence[str | Path]) -> tuple[Tensor, list[str]]:
    """Pictures, the rows of CSV files, or texts, as the model wants them.

    Returns:
        (samples, *input_shape) float32, or (samples, tokens) int64, and a name for each sample: its
        file, or file:line, or the text.

    Raises:
        DataError: A file can't be read, or lacks a column that the model was trained on.
    """
    if spec.inputs.kind == "text":
        return read_texts(spec.inputs, given)
    paths = [Path(item) for item in given]
    if spec.inputs.kind == "image":
        return read_images(spec, paths), [str(path) for path in paths]
    tables = [_table(spec.inputs, path) for path in paths]
    rows = [encode(spec.inputs.columns, table, torch.float32) for table in tables]
    names = [f"{table.path}:{line}" for table in tables for line in table.lines]
    return torch.cat(rows), names


def read_texts(inputs: TextInputs, given: Sequence[str | Path]) -> tuple[Tensor, list[str]]:
    """Texts, or files with a text a line, or `-` for standard input.

    Returns:
        (texts, tokens) int64, filled up with `PADDING`, and the texts.
    """
    texts: list[str] = []
    for item in given:
        if str(item) == "-":
            texts += sys.stdin.read().splitlines()
        elif _is_file(item):
            texts += one_line_end(read_utf8(Path(item))).splitlines()
        else:
            texts.append(str(item))
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise DataError("there is no text to read")
    return pad_texts([*map(Encoder(inputs), texts)]), texts


def pad_texts(sequences: Sequence[Tensor]) -> Tensor:
    """Token numbers of each text, (tokens,) int64, as (texts, tokens), filled up with `PADDING`."""
    return pad_sequence([*sequences], batch_first=True, padding_value=PADDING)


def _is_file(item: str | Path) -> bool:
    try:
        return Path(item).is_file()
    except OSError:  # a text that is longer than a file's name may be
        return False


def read_images(spec: DataSpec, paths: Sequence[Path]) -> Tensor:
    """Picture files of any size: (pictures, channels, height, width) float32, normalised."""
    if not isinstance(spec.inputs, ImageInputs):
        raise DataError("the model was trained on rows of a table, not on pictures")
    pixels = [decode_image(path, spec.input_shape, spec.inputs) for path in paths]
    return normalise_images(spec.inputs, torch.stack(pixels))


def normalise_images(inputs: ImageInputs, pixels: Tensor) -> Tensor:
    """Pixels (images, channels, height, width) to float32, normalised as training's were."""
    transform = ImageTransform(inputs, dtype=torch.float32, device=torch.device("cpu"))
    return transform(pixels, torch.arange(len(pixels)), None)


def read_rows(spec: DataSpec, path: Path) -> Tensor:
    """The rows of a CSV file: (rows, features) float32; other columns are left out."""
    if not isinstance(spec.inputs, TableInputs):
        raise DataError("the model was trained on pictures, not on rows of a table")
    return encode(spec.inputs.columns, _table(spec.inputs, path), torch.float32)


def _table(inputs: TableInputs, path: Path) -> Table:
    """The table, read with the delimiter that gives its header the columns that training had."""
    wanted = [column.name for column in inputs.columns]
    table = read_new_table(path, wanted, inputs.quote)
    table.require_values(wanted)
    return table


def read_new_table(path: Path, wanted: Sequence[str], quote: Quote) -> Table:
    """A table to predict from, of any delimiter.

    Args:
        path: The file.
        wanted: Columns that it must have; others may be there, and hold anything.
        quote: Option that the training file was read with.

    Raises:
        DataError: The file can't be read, or lacks a column.
    """

    def found(delimiter: str) -> int:
        enclosing = usual_quote(delimiter) if quote == "auto" else quote
        return len(set(wanted) & set(read_header(path, Layout(delimiter, enclosing))))

    table = read_table(path, max(DELIMITERS, key=found), quote)
    for name in wanted:
        table.column(name)
    return table
