"""An image file to pixels."""

from __future__ import annotations

import io
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dltrain.checkpoints.atomic_files import open_named, read_named
from dltrain.core.data_spec import ImageInputs
from dltrain.core.errors import DataError, shorten

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Endings, in lower case, of the files that are taken for images."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are decoded, whatever a file is called.

Others, such as EPS, start programs that interpret what the file says.
"""

_MAX_SIDE = 128  # pixels of a side of the images whose levels are counted

MAX_BYTES = 2**30
"""Of an image's file."""
MAX_PIXELS = 2**30 // 12
"""Pixels of an image; more are taken for a decompression bomb, as Pillow does by default."""


def decode_image(
    path: Path, shape: tuple[int, ...], inputs: ImageInputs, *, pipe: bool = False
) -> Tensor:
    """Reads an image upright, scales it until it covers the shape, and cuts out the centre.

    Args:
        path: One of `FORMATS`.
        shape: (channels, height, width); one channel is grey, three are red, green and blue.
        inputs: Whether the model's images are deep, and the background of transparent ones.
        pipe: See `files.open_named`.

    Returns:
        Pixels of that shape, of `inputs.dtype`.

    Raises:
        DataError: The file is missing, damaged, no image, or one of more than `MOST_PIXELS`; or it
            has 16 bits and the others 8, or the other way round.
    """
    try:
        content = read_named(path, MAX_BYTES, pipe=pipe)
    except OSError as error:
        message = f"{path}: not an image that can be read: {error.strerror}"
        raise DataError(message) from error
    return decode_image_bytes(content, str(path), shape, inputs)


def decode_image_bytes(
    content: bytes,
    name: str,
    shape: tuple[int, ...],
    inputs: ImageInputs,
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """What `decode_image` makes of a file, of its content.

    Args:
        content: The file's.
        name: What to call it in an error.
        shape: See `decode_image`.
        inputs: See `decode_image`.
        max_pixels: The most that are decoded.
    """
    from PIL import Image

    with _decoding_errors(name):
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            _require_at_most_pixels(opened, name, max_pixels)
            opened.verify()  # checks the sums of a PNG, which decoding does not
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            return decode_pil_image(opened, name, shape, inputs)


@dataclass(frozen=True)
class ImageHeader:
    """What an image's file says before its pixels.

    Attributes:
        width: Pixels of a row.
        height: Rows.
        grey: Whether it has no colours.
        deep: Whether it has more than 8 bits a pixel and channel.
        transparent: Whether parts of it may be transparent.
    """

    width: int
    height: int
    is_gray: bool
    is_deep: bool
    is_transparent: bool


def read_header(file: Path | io.BytesIO, name: str | None = None) -> ImageHeader:
    """What is known of an image without decoding it.

    Args:
        file: The file, or its content.
        name: What to call it in an error; its path if not given.

    Raises:
        DataError: The file is missing, no image, or of a depth that can't be read.
    """
    from PIL import Image

    name = name or str(file)
    with (
        _decoding_errors(name),
        open_named(file) if isinstance(file, Path) else file as source,
        Image.open(source, formats=FORMATS) as opened,
    ):
        deep = _is_deep(opened, name)
        return ImageHeader(
            *opened.size,
            is_gray=deep or opened.mode in ("1", "L", "LA"),
            is_deep=deep,
            is_transparent=opened.has_transparency_data,
        )


def visible_gray_levels(path: Path) -> Tensor | None:
    """How much of an image's visible parts has each grey level, (256,) float64 that sum to 1.

    Returns:
        None where no part is transparent, or all of it.

    Raises:
        DataError: The file can't be read.
    """
    import numpy as np
    from PIL import Image

    with (
        _decoding_errors(str(path)),
        open_named(path) as file,
        Image.open(file, formats=FORMATS) as opened,
    ):
        _require_at_most_pixels(opened, str(path), MAX_PIXELS)
        opened.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.NEAREST)
        pixels = opened.convert("RGBA")
        alpha = np.asarray(pixels.getchannel("A"), dtype=np.float64).ravel()
        levels = np.asarray(pixels.convert("RGB").convert("L")).ravel()
    if alpha.min() == 255 or not alpha.any():
        return None
    return torch.from_numpy(np.bincount(levels, alpha, minlength=256) / alpha.sum())


def _require_at_most_pixels(image: Image, name: str, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height}"
        raise DataError(f"{name}: {size} pixels; at most {max_pixels:,} are taken")


_LOCK = threading.Lock()
_FILTERS: list[warnings.catch_warnings] = []
"""One for each thread that decodes; the first of them has changed the filters of the process."""


@contextmanager
def _ignored_warnings() -> Iterator[None]:
    """Ignore warnings until the last thread in this context leaves it.

    `catch_warnings` alone is for one thread: of two, the later would restore what the other set.
    """
    with _LOCK:
        quiet = warnings.catch_warnings()
        if not _FILTERS:
            quiet.__enter__()
            warnings.simplefilter("ignore")
        _FILTERS.append(_FILTERS[0] if _FILTERS else quiet)
    try:
        yield
    finally:
        with _LOCK:
            quiet = _FILTERS.pop()
            if not _FILTERS:
                quiet.__exit__(None, None, None)


@contextmanager
def _decoding_errors(name: str) -> Iterator[None]:
    """Whatever a decoder raises, as a DataError that names the file."""
    from PIL import UnidentifiedImageError

    try:
        with _ignored_warnings():  # of details, such as a damaged date, which spoil no pixel
            yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise DataError(f"{name}: not an image that can be read: none of {known}") from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        reason = shorten(str(error) or type(error).__name__, 300)
        raise DataError(f"{name}: not an image that can be read: {reason}") from error


def decode_pil_image(
    image: Image, name: str, shape: tuple[int, ...], inputs: ImageInputs
) -> Tensor:
    """What `decode_image` makes of a file, of an image that Pillow has opened or made."""
    import numpy as np
    from PIL import Image, ImageOps

    deep = _is_deep(image, name)
    if deep != inputs.deep:
        own, others = ("16", "8") if deep else ("8", "16")
        raise DataError(
            f"{name}: has {own} bits a pixel, and the images to train on have {others}: a pixel's "
            f"value means something else; convert all to {others} bits"
        )
    image = ImageOps.exif_transpose(image)
    if not deep:
        image = _composite_on_background(image, inputs.background)
    channels, height, width = shape
    image = _crop_long_side(image, height, width)
    image = image.convert("I" if deep else "L" if channels == 1 else "RGB")
    scale = max(height / image.height, width / image.width)
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if size != image.size:  # averages where it shrinks; Pillow averages 16 bits as floats alone
        image = (image.convert("F") if deep else image).resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    array = np.array(image.crop((left, top, left + width, top + height)))
    if deep:
        grey = torch.from_numpy(np.rint(array).astype(np.int32))
        return grey.expand(channels, height, width).contiguous()
    return torch.from_numpy(array).view(height, width, channels).permute(2, 0, 1).contiguous()


def _composite_on_background(image: Image, level: int) -> Image:
    """A transparent image as it looks on a grey level; without it, black on nothing is black."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    ground = Image.new("RGBA", image.size, (level, level, level, 255))
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


def _crop_long_side(image: Image, height: int, width: int) -> Image:
    """The middle of a picture that is far longer than the shape: scaled whole, it would be huge."""
    scale = max(height / image.height, width / image.width)
    keep_width = min(image.width, 8 * math.ceil(width / scale))
    keep_height = min(image.height, 8 * math.ceil(height / scale))
    if (keep_width, keep_height) == image.size:
        return image
    left, top = (image.width - keep_width) // 2, (image.height - keep_height) // 2
    return image.crop((left, top, left + keep_width, top + keep_height))


def _is_deep(image: Image, name: str) -> bool:
    """Whether an image has more than 8 bits a pixel.

    Raises:
        DataError: Pillow drops all but 8 of them, or their range is unknown.
    """
    if image.mode.startswith("F"):
        raise DataError(
            f"{name}: pixels of type {image.mode!r} have no known range; save as 8-bit, or as "
            "16-bit grey"
        )
    deep = image.mode.startswith("I")
    if not deep and image.format in ("PNG", "PPM", "TIFF") and _loses_bits(image):
        raise DataError(
            f"{name}: 16 bits a channel are read in grey images without transparency only; save as "
            "8-bit, or as 16-bit grey"
        )
    if deep and image.has_transparency_data:
        raise DataError(f"{name}: transparency is read in images of 8 bits only; save without it")
    return deep


def _loses_bits(image: Image) -> bool:
    """Whether Pillow would give the upper 8 of 16 bits, told by how it unpacks what it opened."""
    for codec, _, _, given in getattr(image, "tile", ()):
        options: tuple[Any, ...] = given if isinstance(given, tuple) else (given,)
        if codec in ("ppm", "ppm_plain"):
            return options[1] > 255
        if any(isinstance(option, str) and ";16" in option for option in options):
            return True
    return False
