"""Conversion of Python objects to model inputs, with the preprocessing of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dltrain.core.data_spec import DataSpec, ImageInputs, TableInputs
from dltrain.core.errors import DataError, shorten
from dltrain.data.columns import cell_text, encode
from dltrain.data.image_decoding import decode_image, decode_pil_image
from dltrain.data.input_readers import normalise_images, pad_texts
from dltrain.data.table import MISSING, Table
from dltrain.data.tokenization import Encoder

if TYPE_CHECKING:
    from PIL.Image import Image


def read_objects(spec: DataSpec, items: Sequence[Any]) -> tuple[Tensor, list[str]]:
    """Convert images, rows of a table, or texts, as the model requires.

    Args:
        spec: Spec of the training data.
        given: At least one; images as paths, as Pillow's, or as arrays of uint8,
            of images with 16 bits as arrays of uint16 or int32; rows as mappings; texts as str.

    Returns:
        (samples, *input_shape) float32, or (samples, tokens) int64, and a name for each sample: its
        file, its text, or its number from 0.

    Raises:
        DataError: An object is none of these, or lacks a column that the model was trained on.
    """
    if isinstance(spec.inputs, ImageInputs):
        names = [str(o) if isinstance(o, str | Path) else str(n) for n, o in enumerate(items)]
        pixels = [
            _image(item, name, spec.input_shape, spec.inputs)
            for name, item in zip(names, items, strict=True)
        ]
        return normalise_images(spec.inputs, torch.stack(pixels)), names
    if isinstance(spec.inputs, TableInputs):
        return _rows(spec.inputs, items), [str(number) for number in range(len(items))]
    for number, item in enumerate(items):
        if not isinstance(item, str):
            raise _type_error(number, item, "expected a text (str)")
    return pad_texts(spec.inputs, [*map(Encoder(spec.inputs), items)]), list(items)


def _image(item: Any, name: str, shape: tuple[int, ...], inputs: ImageInputs) -> Tensor:
    """Pixels of that shape, of `inputs.dtype`."""
    from PIL import Image

    if isinstance(item, str | Path):
        return decode_image(Path(item), shape, inputs)
    image = item if isinstance(item, Image.Image) else _image_from_array(item, name, inputs.deep)
    return decode_pil_image(image, name, shape, inputs)


def _image_from_array(item: Any, name: str, deep: bool) -> Image:
    import numpy as np
    from PIL import Image

    wanted = "expected a path, a Pillow image, or an array (height, width[, channels])"
    if not hasattr(item, "__array__"):
        raise _type_error(name, item, wanted)
    array = np.asarray(item)
    if array.dtype not in ((np.uint16, np.int32) if deep else (np.uint8,)):
        known = "uint16 or int32, grayscale," if deep else "uint8, 0 to 255,"
        raise DataError(f"input {name}: expected an array of {known} got {array.dtype}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    color_channels = () if deep else (3, 4)
    if 0 in array.shape or not (
        array.ndim == 2 or (array.ndim == 3 and array.shape[2] in color_channels)
    ):
        raise DataError(f"input {name}: an array of shape {array.shape}; {wanted}")
    return Image.fromarray(array)


def _rows(inputs: TableInputs, given: Sequence[Any]) -> Tensor:
    """(rows, features) float32."""
    columns: dict[str, list[str]] = {column.name: [] for column in inputs.columns}
    by_name = {column.name: column for column in inputs.columns}
    for number, row in enumerate(given):
        if not isinstance(row, Mapping):
            raise _type_error(number, row, "expected a mapping with a value for each column")
        for name, cells in columns.items():
            if name not in row:
                there = shorten(", ".join(map(str, row)), 300)
                raise DataError(f"input {number}: has no {name!r}; it has {there}")
            cell = cell_text(by_name[name], row[name])
            if row[name] is None or cell.lower() in MISSING:
                raise DataError(
                    f"input {number}: expected a value of {name!r}, got {cell or 'none'}"
                )
            cells.append(cell)
    table = Table(Path("input"), [*range(len(given))], columns, "{path} {line}")
    return encode(inputs.columns, table, torch.float32)


def _type_error(number: int | str, item: Any, wanted: str) -> DataError:
    return DataError(f"input {number}: a {type(item).__name__}; {wanted}")
