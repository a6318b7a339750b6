"""Common parts of image sources: normalization, and splits from tensors of pixels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dltrain.core.data_spec import DataSpec, ImageInputs
from dltrain.core.protocols import Data, DataContext
from dltrain.data.augment import Augment
from dltrain.data.in_memory import class_counts, fingerprint, in_memory_data
from dltrain.data.splits import hold_out, split_fingerprint


class ImageTransform:
    """Transform from pixels to inputs: optional augmentation, then (pixel - center) / scale."""

    def __init__(
        self,
        inputs: ImageInputs,
        *,
        dtype: torch.dtype,
        device: torch.device,
        seed: int = 0,
        augment: Augment | None = None,
    ) -> None:
        """Args:
        inputs: Range of the pixels, mean and standard deviation of each channel.
        dtype: Dtype of the inputs.
        device: Device of the pixels.
        seed: Seed of the augmentation.
        augment: Augmentation of training images.
        """
        centre, scale = torch.tensor([inputs.centre, inputs.scale], dtype=torch.float64)[
            ..., None, None
        ]
        # Pixels are relative to `low`: augmentation pads with 0, and half precision suffices.
        self.low: int = inputs.low
        self.centre: Tensor = (centre - inputs.low).to(device, dtype)
        self.scale: Tensor = (1 / scale).to(device, dtype)
        self.dtype = dtype
        self.seed = seed
        self.augment = augment

    def __call__(self, pixels: Tensor, index: Tensor, epoch: int | Tensor | None) -> Tensor:
        """Transform pixels (batch, channels, height, width); epoch None disables augmentation."""
        if self.low:
            pixels = pixels - self.low
        if self.augment is None or epoch is None:
            return pixels.to(self.dtype).sub_(self.centre).mul_(self.scale)
        draws = self.augment.random_values(self.seed, epoch, index)
        moved = self.augment.transform(pixels, draws, self.dtype)
        return self.augment.apply_cutout(moved.sub_(self.centre).mul_(self.scale), draws)


def pixel_statistics(pixels: Tensor) -> ImageInputs:
    """Return mean and standard deviation by channel of (samples, channels, height, width) uint8."""
    value = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in pixels.unbind(1):
        frequency = torch.bincount(channel.flatten(), minlength=256) / channel.numel()
        mean = (frequency * value).sum()
        variance = (frequency * (value - mean).square()).sum()
        means.append(mean.item())
        stds.append(variance.sqrt().item() or 1.0)  # a channel of one value is only centred
    return ImageInputs(tuple(means), tuple(stds))


def in_memory_images(
    context: DataContext,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor] | None,
    *,
    class_names: tuple[str, ...],
    validation: float,
    augment: Augment | None,
    source: str,
    files: tuple[Path, ...],
) -> Data:
    """Return data from pixels (samples, channels, height, width) uint8, classes (samples,) int64.

    Mean and standard deviation are those of the training split, without validation samples.
    """
    pixels, targets = train
    kept, held = hold_out(targets, validation, context.seed, name="validation")
    parts = {"train": train}
    if len(held):
        parts = {
            # index_select, which is several times faster here than pixels[kept]
            "train": (pixels.index_select(0, kept), targets[kept]),
            "validation": (pixels.index_select(0, held), targets[held]),
        }
    if test is not None:
        parts["test"] = test
    inputs = pixel_statistics(parts["train"][0])
    spec = DataSpec(
        input_shape=tuple(pixels.shape[1:]),
        num_outputs=len(class_names),
        inputs=inputs,
        class_names=class_names,
        class_counts=class_counts(parts["train"][1], len(class_names)),
    )
    return in_memory_data(
        context,
        spec,
        parts,
        source=source,
        transform=ImageTransform(
            inputs,
            dtype=context.dtype,
            device=context.device,
            seed=context.seed,
            augment=augment,
        ),
        fingerprint=fingerprint(*train, *(test or ())),
        split_fingerprint=split_fingerprint(train=kept, validation=held),
        files=files,
    )
