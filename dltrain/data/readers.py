"""New files to model inputs, exactly as training's were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dltrain.data.columns import encode
from dltrain.data.decode import decode_image
from dltrain.data.images import ImageTransform
from dltrain.data.table import Table, read_table
from dltrain.errors import DataError
from dltrain.spec import DataSpec, ImageInputs, TableInputs

DELIMITERS = (",", ";", "\t", "|")


def read_inputs(spec: DataSpec, paths: Sequence[Path]) -> tuple[Tensor, list[str]]:
    """Pictures, or the rows of CSV files, as the model wants them.

    Returns:
        (samples, *input_shape) float32, and a name for each sample: its file, or file:line.

    Raises:
        DataError: A file can't be read, or lacks a column that the model was trained on.
    """
    if spec.inputs.kind == "image":
        return read_images(spec, paths), [str(path) for path in paths]
    tables = [_table(spec.inputs, path) for path in paths]
    rows = [encode(spec.inputs.columns, table, torch.float32) for table in tables]
    names = [f"{table.path}:{line}" for table in tables for line in table.lines]
    return torch.cat(rows), names


def read_images(spec: DataSpec, paths: Sequence[Path]) -> Tensor:
    """Picture files of any size: (pictures, channels, height, width) float32, normalised."""
    if not isinstance(spec.inputs, ImageInputs):
        raise DataError("the model was trained on rows of a table, not on pictures")
    pixels = torch.stack([decode_image(path, spec.input_shape) for path in paths])
    transform = ImageTransform(spec.inputs, dtype=torch.float32, device=torch.device("cpu"))
    return transform(pixels, torch.arange(len(pixels)), None)


def read_rows(spec: DataSpec, path: Path) -> Tensor:
    """The rows of a CSV file: (rows, features) float32; other columns are left out."""
    if not isinstance(spec.inputs, TableInputs):
        raise DataError("the model was trained on pictures, not on rows of a table")
    return encode(spec.inputs.columns, _table(spec.inputs, path), torch.float32)


def _table(inputs: TableInputs, path: Path) -> Table:
    """The table, read with the delimiter that gives its header the columns that training had."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read: {error}") from error
    wanted = [column.name for column in inputs.columns]

    def found(delimiter: str) -> int:
        cells = {cell.strip().strip('"') for cell in header.split(delimiter)}
        return sum(name in cells for name in wanted)

    table = read_table(path, max(DELIMITERS, key=found))
    for name in wanted:
        table.column(name)
    return table
