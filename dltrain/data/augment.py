"""Random changes to training pictures, batch-wise on the device.

A sample's change is a pure function of the seed, the epoch and its index: it does not depend on the
batch, the device or the number of workers that it went through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dltrain.core.option_types import NonNegativeFloat, NonNegativeInt
from dltrain.data.seeding import derive_seed, uniform

_NUM_VALUES = 8  # the same for any options, so that switching one on leaves the others' draws alone


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes to training pictures; what moves in from outside is black.

    Attributes:
        crop: Pad by this many pixels and cut a window of the old size: a move by whole pixels,
            exact.
        flip: Mirror left to right, half of the time.
        shift: Move by up to this many pixels along each axis, fractions included, interpolated.
        rotate: Turn about the centre by up to this many degrees either way, interpolated.
        cutout: Blank a square of this many pixels a side, at a random place, with the data's mean
            (DeVries and Taylor, arXiv:1708.04552).
    """

    crop: NonNegativeInt = 0
    flip: bool = False
    shift: NonNegativeFloat = 0.0
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    cutout: NonNegativeInt = 0

    def random_values(self, seed: int, epoch: int | Tensor, index: Tensor) -> Tensor:
        """The samples' random numbers, (batch, 8) float32 in [0, 1)."""
        return uniform(derive_seed(seed, epoch), index, _NUM_VALUES)

    def transform(self, pixels: Tensor, draws: Tensor, dtype: torch.dtype) -> Tensor:
        """Crop, flip, shift and rotate.

        Args:
            pixels: (batch, channels, height, width) uint8 or int32; what moves in is 0.
            draws: See `draws`.
            dtype: Of the result.

        Returns:
            A new tensor of the same shape, in units of raw pixels.
        """
        if self.crop or self.flip:
            pixels = _crop_and_flip(pixels, self.crop, self.flip, draws[:, 0:3])
        moved = pixels.to(dtype)
        if self.shift or self.rotate:
            moved = _affine(moved, self.shift, math.radians(self.rotate), draws[:, 3:6])
        return moved

    def apply_cutout(self, images: Tensor, draws: Tensor) -> Tensor:
        """Cutout, in place, of normalised images (batch, channels, height, width)."""
        if not self.cutout:
            return images
        height, width = images.shape[-2:]
        rows = _interval_mask(draws[:, 6], height, self.cutout)
        columns = _interval_mask(draws[:, 7], width, self.cutout)
        return images.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _crop_and_flip(pixels: Tensor, padding: int, flip: bool, draws: Tensor) -> Tensor:
    """Cuts each sample's window out of the padded picture, from draws (batch, 3)."""
    height, width = pixels.shape[-2:]
    padded = F.pad(pixels, (padding,) * 4)
    # every window there is, as a view: (batch, channels, down, across, height, width)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    down, across = (draws[:, :2] * (2 * padding + 1)).long().unbind(1)
    cropped = windows[torch.arange(len(pixels), device=pixels.device), :, down, across]
    if not flip:
        return cropped
    return torch.where(draws[:, 2, None, None, None] < 0.5, cropped.flip(3), cropped)


def _affine(images: Tensor, shift: float, radians: float, draws: Tensor) -> Tensor:
    """Moves and turns each picture, from draws (batch, 3), with one bilinear interpolation."""
    height, width = images.shape[-2:]
    centred = (draws * 2 - 1).to(images.dtype)
    angle = centred[:, 2] * radians
    cos, sin = angle.cos(), angle.sin()
    # affine_grid's coordinates are halves of the picture's sides, hence the ratios
    across = torch.stack([cos, -sin * (height / width), centred[:, 0] * (2 * shift / width)], 1)
    down = torch.stack([sin * (width / height), cos, centred[:, 1] * (2 * shift / height)], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def _interval_mask(draw: Tensor, length: int, size: int) -> Tensor:
    """Which places a stretch of `size` about a random centre covers, (batch, length) bool."""
    start = (draw * length).long() - size // 2
    place = torch.arange(length, device=draw.device) - start[:, None]
    return (place >= 0) & (place < size)
