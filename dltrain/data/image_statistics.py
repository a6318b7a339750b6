"""Bit depth, value range and background of images, from the training images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from dltrain.core.data_spec import ImageInputs
from dltrain.core.errors import DataError
from dltrain.data.image_decoding import decode_image, read_header, visible_gray_levels

Background = Literal["auto", "white", "gray", "black"]

LEVELS = {"white": 255, "gray": 128, "black": 0}
"""Gray level of each background."""

MAX_HEADERS, MAX_DECODED = 1000, 200
"""Maximum number of training images whose headers are read, and that are decoded."""

IMAGENET = {
    1: ImageInputs(mean=(0.449,), std=(0.226,)),
    3: ImageInputs(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
}
"""Channel statistics of ImageNet, which pretrained models expect; gray is the channel average."""

_NEVER_DEEP = (".jpeg", ".jpg")  # 8 bits and no transparency: the header need not be read
_BACKGROUND_LEVELS = (255, 0, 128, 192, 64)  # in order of preference


def image_inputs(
    paths: Sequence[Path],
    shape: tuple[int, int, int],
    background: Background,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> ImageInputs:
    """Determine from training images how images are decoded and normalized.

    Args:
        paths: Files of the training images.
        shape: (channels, height, width) of an input.
        background: See `image_folder`.
        mean: Mean of each channel, from 0 to 1; None for ImageNet's, or for 16-bit images that of
            the training images.
        std: Standard deviation, as for `mean`.

    Raises:
        DataError: Bit depths are mixed, or an image can't be read.
    """
    candidates = [
        path
        for path in _evenly_spaced(paths, MAX_HEADERS)
        if path.suffix.lower() not in _NEVER_DEEP
    ]
    headers = {path: read_header(path) for path in candidates}
    deep = [path for path, header in headers.items() if header.is_deep]
    if not deep:
        transparent = [path for path, header in headers.items() if header.is_transparent]
        level = _best_background(transparent) if background == "auto" else LEVELS[background]
        default = IMAGENET[shape[0]]
        return ImageInputs(mean or default.mean, std or default.std, background=level)
    flat = [path for path in paths if path not in headers or not headers[path].is_deep]
    if len(deep) < len(candidates) or len(candidates) < len(_evenly_spaced(paths, MAX_HEADERS)):
        raise DataError(
            f"{deep[0]} has 16 bits per pixel and {flat[0]} has 8; convert all images to the same "
            "bit depth"
        )
    return _deep_inputs(paths, shape, mean, std)


def _deep_inputs(
    paths: Sequence[Path],
    shape: tuple[int, int, int],
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> ImageInputs:
    """Compute range, mean and standard deviation of 16-bit training images."""
    any_range = ImageInputs((0.0,), (1.0,), deep=True)
    low, high, count, total, squares, origin = 2**31, -(2**31), 0, 0.0, 0.0, None
    for path in _evenly_spaced(paths, MAX_DECODED):
        pixels = decode_image(path, (1, *shape[1:]), any_range)
        low, high = min(low, int(pixels.min())), max(high, int(pixels.max()))
        origin = int(pixels.min()) if origin is None else origin  # offsets near 0 keep precision
        offsets = pixels.double() - origin
        count += pixels.numel()
        total += float(offsets.sum())
        squares += float(offsets.square().sum())
    assert origin is not None
    width = max(1, high - low)  # 0 if all pixels are equal
    variance = squares / count - (total / count) ** 2
    own_mean = ((origin - low + total / count) / width,) * shape[0]
    own_std = (math.sqrt(max(0.0, variance)) / width or 1.0,) * shape[0]
    return ImageInputs(mean or own_mean, std or own_std, deep=True, low=low, high=low + width)


def _best_background(paths: Sequence[Path]) -> int:
    """Return the gray level with the highest minimum contrast to the images; white by default."""
    levels = [visible_gray_levels(path) for path in _evenly_spaced(paths, MAX_DECODED)]
    histograms = [histogram for histogram in levels if histogram is not None]
    if not histograms:
        return _BACKGROUND_LEVELS[0]
    distance = (torch.arange(256)[:, None] - torch.tensor(_BACKGROUND_LEVELS)).abs().double()
    contrast = (torch.stack(histograms) @ distance).amin(dim=0)  # (backgrounds,)
    return _BACKGROUND_LEVELS[int(contrast.argmax())]


def _evenly_spaced(paths: Sequence[Path], most: int) -> Sequence[Path]:
    return paths[:: max(1, -(-len(paths) // most))]
