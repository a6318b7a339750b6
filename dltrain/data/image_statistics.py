"""What the training images say about how all images are read: depth, range and background."""

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
"""Grey level of each background."""

MAX_HEADERS, MAX_DECODED = 1000, 200
"""Training images whose headers are read, and that are decoded; evenly among all."""

IMAGENET = {
    1: ImageInputs(mean=(0.449,), std=(0.226,)),
    3: ImageInputs(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
}
"""Channel statistics of ImageNet, which pretrained models expect; grey is the channels' average."""

_NEVER_DEEP = (".jpeg", ".jpg")  # 8 bits and no transparency, so that nothing need be looked at
_BACKGROUND_LEVELS = (255, 0, 128, 192, 64)  # of equally good ones, the first


def image_inputs(
    paths: Sequence[Path],
    shape: tuple[int, int, int],
    background: Background,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> ImageInputs:
    """How images are to be read, by training images.

    Args:
        paths: Of the training images.
        shape: (channels, height, width) of an input.
        background: See `image_folder`.
        mean: Of each channel, from 0 to 1; None for that of ImageNet, or of deep training images.
        std: See `mean`.

    Raises:
        DataError: Some images are deep and others not, or one can't be read.
    """
    looked_at = [
        path
        for path in _evenly_spaced(paths, MAX_HEADERS)
        if path.suffix.lower() not in _NEVER_DEEP
    ]
    headers = {path: read_header(path) for path in looked_at}
    deep = [path for path, header in headers.items() if header.is_deep]
    if not deep:
        transparent = [path for path, header in headers.items() if header.is_transparent]
        level = _best_background(transparent) if background == "auto" else LEVELS[background]
        default = IMAGENET[shape[0]]
        return ImageInputs(mean or default.mean, std or default.std, background=level)
    flat = [path for path in paths if path not in headers or not headers[path].is_deep]
    if len(deep) < len(looked_at) or len(looked_at) < len(_evenly_spaced(paths, MAX_HEADERS)):
        raise DataError(
            f"{deep[0]} has 16 bits a pixel and {flat[0]} has 8: their values mean something else; "
            "convert all images to one of the two"
        )
    return _deep_inputs(paths, shape, mean, std)


def _deep_inputs(
    paths: Sequence[Path],
    shape: tuple[int, int, int],
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> ImageInputs:
    """Range, mean and deviation of deep training images."""
    any_range = ImageInputs((0.0,), (1.0,), deep=True)
    low, high, count, total, squares, origin = 2**31, -(2**31), 0, 0.0, 0.0, None
    for path in _evenly_spaced(paths, MAX_DECODED):
        pixels = decode_image(path, (1, *shape[1:]), any_range)
        low, high = min(low, int(pixels.min())), max(high, int(pixels.max()))
        origin = int(pixels.min()) if origin is None else origin  # squares near 0 keep their digits
        offsets = pixels.double() - origin
        count += pixels.numel()
        total += float(offsets.sum())
        squares += float(offsets.square().sum())
    assert origin is not None
    width = max(1, high - low)  # images of one value have none
    variance = squares / count - (total / count) ** 2
    own_mean = ((origin - low + total / count) / width,) * shape[0]
    own_std = (math.sqrt(max(0.0, variance)) / width or 1.0,) * shape[0]
    return ImageInputs(mean or own_mean, std or own_std, deep=True, low=low, high=low + width)


def _best_background(paths: Sequence[Path]) -> int:
    """The grey level on which the least visible image stands out most; white if none matters."""
    levels = [visible_gray_levels(path) for path in _evenly_spaced(paths, MAX_DECODED)]
    seen = [weights for weights in levels if weights is not None]
    if not seen:
        return _BACKGROUND_LEVELS[0]
    distance = (torch.arange(256)[:, None] - torch.tensor(_BACKGROUND_LEVELS)).abs().double()
    contrast = (torch.stack(seen) @ distance).amin(dim=0)  # of each ground, (grounds,)
    return _BACKGROUND_LEVELS[int(contrast.argmax())]


def _evenly_spaced(paths: Sequence[Path], most: int) -> Sequence[Path]:
    return paths[:: max(1, -(-len(paths) // most))]
