"""Parsing of requests into samples, as `dltrain predict` reads files."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from torch import Tensor

from dltrain.core.data_spec import DataSpec, ImageInputs, TableInputs, TextInputs
from dltrain.core.errors import DataError, shorten
from dltrain.data.columns import cell_text, encode
from dltrain.data.image_decoding import decode_image_bytes, decode_pil_image, read_header
from dltrain.data.input_readers import normalise_images, pad_texts
from dltrain.data.table import Table
from dltrain.data.tokenization import Encoder
from dltrain.serving.limits import Limits
from dltrain.serving.problems import MAX_PROBLEMS, Problem, RequestError
from dltrain.serving.schemas import ITEMS_KEYS, pixel_range, request_model

T = TypeVar("T")


class RequestParser:
    """Parse the requests for one model.

    Args:
        spec: Description of the model's training data.
        limits: Limits on the size of a request.

    Attributes:
        key: The only key of a request's JSON object.
        model: Pydantic model of a request's JSON object.
    """

    def __init__(self, spec: DataSpec, limits: Limits) -> None:
        self.spec = spec
        self.limits = limits
        self.key: str = ITEMS_KEYS[spec.inputs.kind]
        self.model: type[BaseModel] = request_model(spec, limits)
        self._encoder = Encoder(spec.inputs) if spec.inputs.kind == "text" else None

    def parse_json(self, body: bytes) -> tuple[list[Tensor], list[str]]:
        """Return the samples in a JSON object, and the name of each.

        Args:
            body: The JSON text.

        Returns:
            Pixels (channels, height, width) uint8 or int32, features (features,) float32, or token
            ids (tokens,) int64. The name of a text is the text; that of another sample is its
            position, such as `rows[0]`.

        Raises:
            RequestError: Status 400 for invalid JSON; 422 for items that the model does not accept.
        """
        try:
            items = getattr(self.model.model_validate_json(body), self.key)
        except ValidationError as error:
            details = error.errors(include_url=False)
            status = 400 if details[0]["type"] == "json_invalid" else 422
            problems = [_problem(detail, self.key) for detail in details[:MAX_PROBLEMS]]
            raise RequestError(status, problems) from error
        names = [f"{self.key}[{index}]" for index in range(len(items))]
        if self._encoder is not None:
            return self._each(items, names, self._encode_text), items
        if isinstance(self.spec.inputs, TableInputs):
            return self._each(items, names, partial(_encode_row, self.spec.inputs)), names
        return self._decode_images(items, names), names

    def parse_files(self, files: Sequence[tuple[str, bytes]]) -> tuple[list[Tensor], list[str]]:
        """Return the samples in image files, and the name of each.

        Args:
            files: Name and content of each file.

        Raises:
            RequestError: Status 422 for a file that is not an image, or is too large; 413 for too
                many pixels in all files together.
        """
        names = [name for name, _ in files]
        return self._decode_images([content for _, content in files], names), names

    def collate(self, samples: Sequence[Tensor]) -> Tensor:
        """Return samples as one batch, as `read_inputs` does."""
        if isinstance(self.spec.inputs, TextInputs):
            return pad_texts(self.spec.inputs, samples)
        batch = torch.stack([*samples])
        return (
            normalise_images(self.spec.inputs, batch)
            if isinstance(self.spec.inputs, ImageInputs)
            else batch
        )

    def _each(
        self, items: Sequence[Any], names: Sequence[str], parse: Callable[[Any, str], T]
    ) -> list[T]:
        samples, problems = [], []
        for index, (item, name) in enumerate(zip(items, names, strict=True)):
            try:
                samples.append(parse(item, name))
            except DataError as error:
                problems.append(Problem(str(error), index))
        if problems:
            raise RequestError(422, problems[:MAX_PROBLEMS])
        return samples

    def _encode_text(self, text: str, name: str) -> Tensor:
        if not text.strip():
            raise DataError(f"{name}: the text is empty")
        assert self._encoder is not None
        return self._encoder(text)

    def _decode_images(self, items: Sequence[Any], names: Sequence[str]) -> list[Tensor]:
        """Decode images after all their sizes have been compared with the limits."""
        opened = self._each(items, names, self._open)
        total = sum(image.num_pixels for image in opened)
        if total > (limit := self.limits.max_request_pixels):
            raise RequestError(
                413,
                f"the request has {len(opened)} images of {total:,} pixels together; "
                f"expected at most {limit:,}",
            )
        return self._each(opened, names, self._decode)

    def _open(self, item: Any, name: str) -> _OpenedImage:
        if not isinstance(item, str | bytes):
            image = _image_from_pixels(item, name, self._image_inputs)
            opened = _OpenedImage(image, image.width, image.height)
        else:
            content = _decode_base64(item, name) if isinstance(item, str) else item
            header = read_header(io.BytesIO(content), name)
            opened = _OpenedImage(content, header.width, header.height)
        if opened.num_pixels > (limit := self.limits.max_pixels):
            size = f"{opened.width} x {opened.height}"
            raise DataError(f"{name}: {size} pixels; expected at most {limit:,}")
        return opened

    def _decode(self, opened: _OpenedImage, name: str) -> Tensor:
        decode: Any = decode_image_bytes if isinstance(opened.image, bytes) else decode_pil_image
        return decode(opened.image, name, self.spec.input_shape, self._image_inputs)

    @property
    def _image_inputs(self) -> ImageInputs:
        assert isinstance(self.spec.inputs, ImageInputs)
        return self.spec.inputs


@dataclass(frozen=True)
class _OpenedImage:
    """The content of a file, or a Pillow image, and its size in pixels."""

    image: Any
    width: int
    height: int

    @property
    def num_pixels(self) -> int:
        return self.width * self.height


def _decode_base64(text: str, name: str) -> bytes:
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error) as error:
        raise DataError(f"{name}: expected base64: {error}") from error


def _image_from_pixels(rows: Any, name: str, inputs: ImageInputs) -> Any:
    """Return a Pillow image of rows of pixels, each a grey level or [red, green, blue]."""
    import numpy as np
    from PIL import Image

    low, high = pixel_range(inputs)
    expected = (
        f"expected an image file in base64, or rows of pixels: integers from {low} to {high}"
        + ("" if inputs.deep else ", or [red, green, blue]")
    )
    try:
        array = np.array(rows)
    except ValueError as error:
        raise DataError(f"{name}: the rows differ in length; {expected}") from error
    is_colour = array.ndim == 3 and array.shape[2] == 3 and not inputs.deep
    if array.dtype.kind not in "iu" or not array.size or not (array.ndim == 2 or is_colour):
        raise DataError(f"{name}: {expected}")
    if array.min() < low or array.max() > high:
        received = f"got pixels from {array.min()} to {array.max()}"
        raise DataError(f"{name}: {received}; expected {low} to {high}")
    return Image.fromarray(array.astype(np.int32 if inputs.deep else np.uint8))


def _encode_row(inputs: TableInputs, row: BaseModel, name: str) -> Tensor:
    """Return the features of a row, (features,) float32."""
    cells = {
        column.name: [cell_text(column, getattr(row, f"column_{number}"))]
        for number, column in enumerate(inputs.columns)
    }
    table = Table(Path(name), [0], cells, "{path}")
    table.require_values(cells)
    return encode(inputs.columns, table, torch.float32)[0]


def _problem(detail: ErrorDetails, key: str) -> Problem:
    """Return one of pydantic's errors with its place in the request."""
    message = {
        "missing": "is missing",
        "extra_forbidden": f"unknown key; expected {key!r} only",
    }.get(detail["type"], detail["msg"])
    loc = detail["loc"]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    index = loc[1] if len(loc) > 1 and isinstance(loc[1], int) else None
    prefix = f"{shorten(place.removeprefix('.'))}: " if place else ""
    return Problem(prefix + shorten(message, 300), index)
