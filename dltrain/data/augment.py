"""Random augmentation of training images, batch-wise on the device.

A sample's augmentation is a pure function of the seed, the epoch and its index: it does not depend
on the batch, the device or the number of workers.
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

_NUM_VALUES = 8  # per sample, for any options: enabling one does not change another's values


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random augmentation of training images; padding is black.

    Attributes:
        crop: Padding in pixels for a random crop of the original size: a shift by whole pixels,
            without interpolation.
        flip: Whether to mirror horizontally with probability 1/2.
        shift: Maximum shift along each axis in pixels, fractions included, interpolated.
        rotate: Maximum rotation about the center in degrees, in both directions, interpolated.
        cutout: Side in pixels of a square at a random position that is filled with the data's
            mean (DeVries and Taylor, arXiv:1708.04552).
    """

    crop: NonNegativeInt = 0
    flip: bool = False
    shift: NonNegativeFloat = 0.0
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    cutout: NonNegativeInt = 0

    def random_values(self, seed: int, epoch: int | Tensor, index: Tensor) -> Tensor:
        """Return the samples' random values, (batch, 8) float32 in [0, 1)."""
        return uniform(derive_seed(seed, epoch), index, _NUM_VALUES)

    def transform(self, pixels: Tensor, draws: Tensor, dtype: torch.dtype) -> Tensor:
        """Crop, flip, shift and rotate.

        Args:
            pixels: (batch, channels, height, width) uint8 or int32, padded with 0.
            draws: Result of `random_values`.
            dtype: Floating-point dtype of the result.

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
        """Apply cutout in place to normalized images (batch, channels, height, width)."""
        if not self.cutout:
            return images
        height, width = images.shape[-2:]
        rows = _interval_mask(draws[:, 6], height, self.cutout)
        columns = _interval_mask(draws[:, 7], width, self.cutout)
        return images.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _crop_and_flip(pixels: Tensor, padding: int, flip: bool, draws: Tensor) -> Tensor:
    """Crop a window out of each padded image, and flip it, by random values (batch, 3)."""
    height, width = pixels.shape[-2:]
    padded = F.pad(pixels, (padding,) * 4)
    # all windows, as a view: (batch, channels, down, across, height, width)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    down, across = (draws[:, :2] * (2 * padding + 1)).long().unbind(1)
    cropped = windows[torch.arange(len(pixels), device=pixels.device), :, down, across]
    if not flip:
        return cropped
    return torch.where(draws[:, 2, None, None, None] < 0.5, cropped.flip(3), cropped)


def _affine(images: Tensor, shift: float, radians: float, draws: Tensor) -> Tensor:
    """Shift and rotate each image by random values (batch, 3), with one bilinear interpolation."""
    height, width = images.shape[-2:]
    centered = (draws * 2 - 1).to(images.dtype)
    angle = centered[:, 2] * radians
    cos, sin = angle.cos(), angle.sin()
    # The unit of affine_grid's coordinates is half of an image's side, hence the ratios.
    across = torch.stack([cos, -sin * (height / width), centered[:, 0] * (2 * shift / width)], 1)
    down = torch.stack([sin * (width / height), cos, centered[:, 1] * (2 * shift / height)], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def _interval_mask(draw: Tensor, length: int, size: int) -> Tensor:
    """Return a mask of an interval of `size` about a random center, (batch, length) bool."""
    start = (draw * length).long() - size // 2
    place = torch.arange(length, device=draw.device) - start[:, None]
    return (place >= 0) & (place < size)
