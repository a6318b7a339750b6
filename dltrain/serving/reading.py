"""What a request holds, to samples as the model wants them; as `dltrain predict` reads files."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    create_model,
)
from pydantic_core import ErrorDetails
from torch import Tensor

from dltrain.data.columns import cell_text, encode
from dltrain.data.decode import decode_opened, decode_picture, read_header
from dltrain.data.readers import normalise_images, pad_texts
from dltrain.data.table import Table
from dltrain.data.tokens import Encoder
from dltrain.errors import DataError, brief
from dltrain.serving.limits import Limits
from dltrain.serving.problems import MOST_TOLD, Problem, RequestError
from dltrain.spec import Column, DataSpec, ImageInputs, TableInputs, TextInputs

T = TypeVar("T")

KEYS = {"image": "images", "table": "rows", "text": "texts"}
"""Kind of inputs to the one key of a request's JSON object."""

_STRICT = ConfigDict(strict=True, extra="forbid")
_VALUE = {"type": "integer", "minimum": 0, "maximum": 255}
_COLOURS = {"type": "array", "items": _VALUE, "minItems": 3, "maxItems": 3}
_PIXEL = {"oneOf": [_VALUE, {**_COLOURS, "description": "red, green and blue"}]}
_PICTURE = {
    "oneOf": [
        {"type": "string", "contentEncoding": "base64", "description": "a picture file"},
        {
            "type": "array",
            "items": {"type": "array", "items": _PIXEL},
            "description": "rows of pixels",
        },
    ]
}


def request_model(spec: DataSpec, limits: Limits) -> type[BaseModel]:
    """What the JSON of a request must be like; its schema describes it to others."""
    kind = spec.inputs.kind
    if isinstance(spec.inputs, TableInputs):
        item: Any = _row_model(spec.inputs.columns)
    elif kind == "text":
        item = Annotated[str, Field(min_length=1, max_length=limits.max_characters)]
    else:
        item = Annotated[Any, WithJsonSchema(_PICTURE)]
    items = Annotated[list[item], Field(min_length=1, max_length=limits.max_items)]
    fields: dict[str, Any] = {KEYS[kind]: (items, ...)}
    return create_model("Inputs", __config__=_STRICT, **fields)


def _row_model(columns: Sequence[Column]) -> type[BaseModel]:
    """A row of a table: a key for each column; others are left out, as those of a file are."""
    fields: dict[str, Any] = {}
    for number, column in enumerate(columns):
        if column.categories:
            known = brief(", ".join(column.categories), 1000)
            told = f"One of training's: {known}; another counts as none. A number counts as text."
            kind: Any = Annotated[
                str,
                BeforeValidator(partial(_cell, column)),
                WithJsonSchema({"type": ["string", "number", "boolean"], "description": told}),
            ]
        else:
            kind = Annotated[float, Field(allow_inf_nan=False)]
        fields[f"column_{number}"] = (kind, Field(alias=column.name))
    return create_model("Row", __config__=ConfigDict(strict=True, extra="ignore"), **fields)


def _cell(column: Column, value: Any) -> Any:
    """A category given as a number or a truth value as the text that a table's cell has."""
    if isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
        return cell_text(column, value)
    return value


class Reader:
    """Reads requests for one model.

    Args:
        spec: What its training data was like.
        limits: How much a request may hold.

    Attributes:
        model: What the JSON of a request must be like.
    """

    def __init__(self, spec: DataSpec, limits: Limits) -> None:
        self.spec, self.limits = spec, limits
        self.key = KEYS[spec.inputs.kind]
        self.model = request_model(spec, limits)
        self._encoder = Encoder(spec.inputs) if spec.inputs.kind == "text" else None

    def of_json(self, body: bytes) -> tuple[list[Tensor], list[str]]:
        """The samples in a JSON object, and what to call each of them.

        Returns:
            Pixels (channels, height, width) uint8, features (features,) float32, or token numbers
            (tokens,) int64; a text is called by itself, another by its place.

        Raises:
            RequestError: 400, it is no JSON; 422, it is not what this model takes.
        """
        try:
            items = getattr(self.model.model_validate_json(body), self.key)
        except ValidationError as error:
            problems = [_problem(told, self.key) for told in error.errors(include_url=False)]
            malformed = error.errors()[0]["type"] == "json_invalid"
            raise RequestError(400 if malformed else 422, problems[:MOST_TOLD]) from error
        names = [f"{self.key}[{number}]" for number in range(len(items))]
        if self._encoder is not None:
            return self._each(items, names, self._text), items
        if isinstance(self.spec.inputs, TableInputs):
            return self._each(items, names, partial(_features, self.spec.inputs)), names
        return self._pictures(items, names), names

    def of_files(self, files: Sequence[tuple[str, bytes]]) -> tuple[list[Tensor], list[str]]:
        """The samples in picture files, each with its name.

        Raises:
            RequestError: 422, one of them is no picture, or too large.
        """
        names = [name for name, _ in files]
        return self._pictures([content for _, content in files], names), names

    def collate(self, samples: Sequence[Tensor]) -> Tensor:
        """Samples as one batch, as `read_inputs` gives it."""
        if isinstance(self.spec.inputs, TextInputs):
            return pad_texts(self.spec.inputs, samples)
        batch = torch.stack([*samples])
        return (
            normalise_images(self.spec.inputs, batch)
            if isinstance(self.spec.inputs, ImageInputs)
            else batch
        )

    def _each(
        self, items: Sequence[Any], names: Sequence[str], read: Callable[[Any, str], T]
    ) -> list[T]:
        samples, problems = [], []
        for number, (item, name) in enumerate(zip(items, names, strict=True)):
            try:
                samples.append(read(item, name))
            except DataError as error:
                problems.append(Problem(str(error), number))
        if problems:
            raise RequestError(422, problems[:MOST_TOLD])
        return samples

    def _text(self, text: str, name: str) -> Tensor:
        if not text.strip():
            raise DataError(f"{name}: has no text")
        assert self._encoder is not None
        return self._encoder(text)

    def _pictures(self, items: Sequence[Any], names: Sequence[str]) -> list[Tensor]:
        """Decode images whose sizes are known to be within the limits, one by one and together."""
        opened = self._each(items, names, self._opened)
        total = sum(image.pixels for image in opened)
        if total > (most := self.limits.max_request_pixels):
            images = f"the request has {len(opened)} images of {total:,} pixels together"
            raise RequestError(413, f"{images}; at most {most:,} are taken")
        return self._each(opened, names, self._decoded)

    def _opened(self, item: Any, name: str) -> _Opened:
        if not isinstance(item, str | bytes):
            image = _picture_of(item, name, self._images.deep)
            opened = _Opened(image, image.width, image.height)
        else:
            content = _of_base64(item, name) if isinstance(item, str) else item
            header = read_header(io.BytesIO(content), name)
            opened = _Opened(content, header.width, header.height)
        if opened.pixels > (most := self.limits.max_pixels):
            size = f"{opened.width} x {opened.height}"
            raise DataError(f"{name}: {size} pixels; at most {most:,} are taken")
        return opened

    def _decoded(self, opened: _Opened, name: str) -> Tensor:
        if isinstance(opened.image, bytes):
            return decode_picture(opened.image, name, self.spec.input_shape, self._images)
        return decode_opened(opened.image, name, self.spec.input_shape, self._images)

    @property
    def _images(self) -> ImageInputs:
        assert isinstance(self.spec.inputs, ImageInputs)
        return self.spec.inputs


@dataclass(frozen=True)
class _Opened:
    """A file's content, or an image of Pillow's, and its size."""

    image: Any
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


def _of_base64(text: str, name: str) -> bytes:
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error) as error:
        raise DataError(f"{name}: not base64: {error}") from error


def _picture_of(rows: Any, name: str, deep: bool) -> Any:
    """Rows of pixels, each a grey or its red, green and blue, as a picture of Pillow's."""
    import numpy as np
    from PIL import Image

    least, most = (-(2**31), 2**31 - 1) if deep else (0, 255)
    wanted = f"base64 of a picture file, or rows of pixels, whole numbers from {least} to {most}"
    try:
        array = np.array(rows)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{name}: its rows differ in length; wanted: {wanted}") from error
    colours = array.ndim == 3 and array.shape[2] == 3 and not deep
    if array.dtype.kind not in "iu" or not array.size or not (array.ndim == 2 or colours):
        raise DataError(f"{name}: wanted: {wanted}, or red, green and blue of it")
    if array.min() < least or array.max() > most:
        found = f"pixels from {array.min()} to {array.max()}"
        raise DataError(f"{name}: {found}; wanted: {least} to {most}")
    return Image.fromarray(array.astype(np.int32 if deep else np.uint8))


def _features(inputs: TableInputs, row: BaseModel, name: str) -> Tensor:
    """(features,) float32."""
    cells = {
        column.name: [cell_text(column, getattr(row, f"column_{number}"))]
        for number, column in enumerate(inputs.columns)
    }
    table = Table(Path(name), [0], cells, "{path}")
    table.require_values(cells)
    return encode(inputs.columns, table, torch.float32)[0]


def _problem(told: ErrorDetails, key: str) -> Problem:
    """One of pydantic's errors, with the place in the request."""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in told["loc"])
    message = {"missing": "is missing"}.get(told["type"], told["msg"])
    if told["type"] == "extra_forbidden":
        message = f"this model takes {key!r} alone"
    loc = told["loc"]
    item = loc[1] if len(loc) > 1 and isinstance(loc[1], int) else None
    place = brief(place.removeprefix("."))
    return Problem(f"{place}: {brief(message, 300)}" if place else brief(message, 300), item)
