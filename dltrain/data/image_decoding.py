"""Decoding of image files to pixels."""

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
"""File suffixes, in lower case, of images."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the accepted formats, for any file name.

Others, such as EPS, run programs that interpret the file's content.
"""

_MAX_SIDE = 128  # side in pixels of images whose gray levels are counted

MAX_BYTES = 2**30
"""Maximum size of an image file in bytes."""
MAX_PIXELS = 2**30 // 12
"""Maximum number of pixels; more are considered a decompression bomb, as by Pillow's default."""


def decode_image(
    path: Path, shape: tuple[int, ...], inputs: ImageInputs, *, pipe: bool = False
) -> Tensor:
    """Read an image upright, resize it to cover the shape, and crop the center.

    Args:
        path: File in one of `FORMATS`.
        shape: (channels, height, width); one channel is gray, three are red, green and blue.
        inputs: Bit depth of the model's images, and the background of transparent ones.
        pipe: See `atomic_files.open_named`.

    Returns:
        Pixels of that shape, of `inputs.dtype`.

    Raises:
        DataError: The file is missing, damaged, not an image, or has more than `MAX_PIXELS`; or
            its bit depth differs from that of the training images.
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
    """Decode the content of an image file; see `decode_image`.

    Args:
        content: Content of the file.
        name: Name in error messages.
        shape: See `decode_image`.
        inputs: See `decode_image`.
        max_pixels: Maximum number of pixels.
    """
    from PIL import Image

    with _decoding_errors(name):
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            _require_at_most_pixels(opened, name, max_pixels)
            opened.verify()  # verifies a PNG's checksums, which decoding does not
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            return decode_pil_image(opened, name, shape, inputs)


@dataclass(frozen=True)
class ImageHeader:
    """Properties of an image in its file's header.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        is_gray: Whether the image has no colors.
        is_deep: Whether it has more than 8 bits per pixel and channel.
        is_transparent: Whether parts of it may be transparent.
    """

    width: int
    height: int
    is_gray: bool
    is_deep: bool
    is_transparent: bool


def read_header(file: Path | io.BytesIO, name: str | None = None) -> ImageHeader:
    """Read the header of an image without decoding it.

    Args:
        file: The file, or its content.
        name: Name in error messages (default: its path).

    Raises:
        DataError: The file is missing, not an image, or has an unsupported bit depth.
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
    """Return the histogram of gray levels of an image's visible parts.

    Returns:
        (256,) float64 that sum to 1; None if no part is transparent, or all of it.

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
        raise DataError(f"{name}: expected at most {max_pixels:,} pixels, got {size}")


_LOCK = threading.Lock()
_FILTERS: list[warnings.catch_warnings] = []
"""One entry per decoding thread; the first thread has changed the process's warning filters."""


@contextmanager
def _ignored_warnings() -> Iterator[None]:
    """Ignore warnings until the last thread in this context leaves it.

    `catch_warnings` alone is not thread-safe: of two threads, the later one would restore the
    filters that the other one set.
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
    """Convert any error of a decoder to a DataError that names the file."""
    from PIL import UnidentifiedImageError

    try:
        with (
            _ignored_warnings()
        ):  # about metadata, such as a damaged date, that does not affect pixels
            yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise DataError(f"{name}: not an image that can be read; expected {known}") from error
    except Exception as error:  # decoders raise arbitrary errors for damaged files
        reason = shorten(str(error) or type(error).__name__, 300)
        raise DataError(f"{name}: not an image that can be read: {reason}") from error


def decode_pil_image(
    image: Image, name: str, shape: tuple[int, ...], inputs: ImageInputs
) -> Tensor:
    """Decode an image of Pillow; see `decode_image`."""
    import numpy as np
    from PIL import Image, ImageOps

    deep = _is_deep(image, name)
    if deep != inputs.deep:
        bits, expected = ("16", "8") if deep else ("8", "16")
        raise DataError(
            f"{name}: expected {expected} bits per pixel, as in the training images, got {bits}; "
            f"convert all images to {expected} bits"
        )
    image = ImageOps.exif_transpose(image)
    if not deep:
        image = _composite_on_background(image, inputs.background)
    channels, height, width = shape
    image = _crop_long_side(image, height, width)
    image = image.convert("I" if deep else "L" if channels == 1 else "RGB")
    scale = max(height / image.height, width / image.width)
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if size != image.size:  # antialiased; Pillow supports that for 16 bits in floats only
        image = (image.convert("F") if deep else image).resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    array = np.array(image.crop((left, top, left + width, top + height)))
    if deep:
        gray = torch.from_numpy(np.rint(array).astype(np.int32))
        return gray.expand(channels, height, width).contiguous()
    return torch.from_numpy(array).view(height, width, channels).permute(2, 0, 1).contiguous()


def _composite_on_background(image: Image, level: int) -> Image:
    """Composite a transparent image on a gray level, so that black on transparent is visible."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    background = Image.new("RGBA", image.size, (level, level, level, 255))
    return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")


def _crop_long_side(image: Image, height: int, width: int) -> Image:
    """Crop the middle of an image far longer than the shape: resized whole, it would be huge."""
    scale = max(height / image.height, width / image.width)
    keep_width = min(image.width, 8 * math.ceil(width / scale))
    keep_height = min(image.height, 8 * math.ceil(height / scale))
    if (keep_width, keep_height) == image.size:
        return image
    left, top = (image.width - keep_width) // 2, (image.height - keep_height) // 2
    return image.crop((left, top, left + keep_width, top + keep_height))


def _is_deep(image: Image, name: str) -> bool:
    """Return whether an image has more than 8 bits per pixel and channel.

    Raises:
        DataError: Pillow would reduce them to 8 bits, or their range is unknown.
    """
    if image.mode.startswith("F"):
        raise DataError(
            f"{name}: pixels of type {image.mode!r} have no known range; save the image with 8 "
            "bits, or as 16-bit grayscale"
        )
    deep = image.mode.startswith("I")
    if not deep and image.format in ("PNG", "PPM", "TIFF") and _loses_bits(image):
        raise DataError(
            f"{name}: 16 bits per channel are supported in grayscale images without transparency "
            "only; save the image with 8 bits, or as 16-bit grayscale"
        )
    if deep and image.has_transparency_data:
        raise DataError(f"{name}: transparency is supported in 8-bit images only; save without it")
    return deep


def _loses_bits(image: Image) -> bool:
    """Return whether Pillow's decoder would keep only the upper 8 of 16 bits."""
    for codec, _, _, arguments in getattr(image, "tile", ()):
        options: tuple[Any, ...] = arguments if isinstance(arguments, tuple) else (arguments,)
        if codec in ("ppm", "ppm_plain"):
            return options[1] > 255
        if any(isinstance(option, str) and ";16" in option for option in options):
            return True
    return False
