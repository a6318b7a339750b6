"""A picture file to pixels."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dltrain.errors import DataError, brief

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

MOST_PIXELS = 2**30 // 12
"""Pixels of an image; more are taken for a decompression bomb, as Pillow does by default."""


def decode_image(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Reads a picture upright, scales it until it covers the shape, and cuts out the centre.

    Args:
        path: One of `FORMATS`.
        shape: (channels, height, width); one channel is grey, three are red, green and blue.

    Returns:
        Pixels of that shape, uint8.

    Raises:
        DataError: The file is missing, damaged, no image, or one of more than `MOST_PIXELS`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = brief(str(error), 300)
        raise DataError(f"{path}: not an image that can be read: {reason}") from error
    return decode_picture(content, str(path), shape)


def decode_picture(
    content: bytes,
    name: str,
    shape: tuple[int, ...],
    max_pixels: int = MOST_PIXELS,
) -> Tensor:
    """What `decode_image` makes of a file, of its content.

    Args:
        content: The file's.
        name: What to call it in an error.
        shape: (channels, height, width).
        max_pixels: The most that are decoded.
    """
    from PIL import Image, ImageOps

    with _told(name):
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            if opened.width * opened.height > max_pixels:
                size = f"{opened.width} x {opened.height}"
                raise DataError(f"{name}: {size} pixels; at most {max_pixels:,} are taken")
            opened.verify()  # checks the sums of a PNG, which decoding does not
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            ImageOps.exif_transpose(opened, in_place=True)
            return fit_picture(_eight_bit(opened, name), shape)


@dataclass(frozen=True)
class PictureHeader:
    """What a picture's file says before its pixels: width and height, and whether it is grey."""

    width: int
    height: int
    grey: bool


def read_header(path: Path) -> PictureHeader:
    """A picture's size, without decoding it.

    Raises:
        DataError: The file is missing or no picture.
    """
    from PIL import Image

    with _told(str(path)), Image.open(path, formats=FORMATS) as opened:
        return PictureHeader(*opened.size, grey=opened.mode in ("1", "L", "LA", "I;16"))


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Whatever a decoder raises, as a DataError that names the file."""
    from PIL import UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # details, such as a damaged date, spoil no pixel
            yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise DataError(f"{name}: not an image that can be read: none of {known}") from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        reason = brief(str(error) or type(error).__name__, 300)
        raise DataError(f"{name}: not an image that can be read: {reason}") from error


def decode_opened(image: Image, name: str, shape: tuple[int, ...]) -> Tensor:
    """What `decode_image` makes of a file, of a picture that Pillow has opened or made."""
    from PIL import ImageOps

    return fit_picture(_eight_bit(ImageOps.exif_transpose(image), name), shape)


def fit_picture(image: Image, shape: tuple[int, ...]) -> Tensor:
    """A picture of 8 bits a value, scaled until it covers (channels, height, width), and cut."""
    import numpy as np
    from PIL import Image

    channels, height, width = shape
    image = _shortened(image, height, width).convert("L" if channels == 1 else "RGB")
    scale = max(height / image.height, width / image.width)
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)  # averages where it shrinks
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    image = image.crop((left, top, left + width, top + height))
    pixels = torch.from_numpy(np.array(image)).view(height, width, channels)
    return pixels.permute(2, 0, 1).contiguous()


def _shortened(image: Image, height: int, width: int) -> Image:
    """The middle of a picture that is far longer than the shape: scaled whole, it would be huge."""
    scale = max(height / image.height, width / image.width)
    keep_width = min(image.width, 8 * math.ceil(width / scale))
    keep_height = min(image.height, 8 * math.ceil(height / scale))
    if (keep_width, keep_height) == image.size:
        return image
    left, top = (image.width - keep_width) // 2, (image.height - keep_height) // 2
    return image.crop((left, top, left + keep_width, top + keep_height))


def _eight_bit(image: Image, name: str) -> Image:
    """The picture with 8 bits a value; Pillow's own conversion would clip 16-bit greys."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(f"{name}: pixels of type {image.mode!r} have no known range; save as 8-bit")
    if "transparency" in image.info:  # a palette with alpha; the colours stay, the alpha goes
        return image.convert("RGBA")
    return image
