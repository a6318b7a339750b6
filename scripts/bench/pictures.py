"""MNIST, as tensors in memory and as tutorials read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MEAN, STD = 0.1307, 0.3081


def tensors(root: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """(samples, 1, 28, 28) float32, normalised, and (samples,) int64."""
    name = "train" if train else "t10k"
    folder = root / "MNIST" / "raw"
    # The headers are 16 and 8 bytes long; see dltrain/data/idx.py for the format.
    pixels = np.fromfile(folder / f"{name}-images-idx3-ubyte", np.uint8, offset=16)
    labels = np.fromfile(folder / f"{name}-labels-idx1-ubyte", np.uint8, offset=8)
    images = torch.from_numpy(pixels).view(-1, 1, 28, 28).float()
    return images.div_(255).sub_(MEAN).div_(STD), torch.from_numpy(labels).long()


def dataset(root: Path, *, train: bool) -> torch.utils.data.Dataset:
    """A picture at a time: from PIL to a tensor, normalised."""
    from torchvision import datasets, transforms

    steps = [transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
    return datasets.MNIST(root, train, transforms.Compose(steps))


class Gathered:
    """Shuffled batches of tensors in memory, gathered at once.

    Args:
        images: (samples, ...), on the device.
        labels: (samples,), on the device.
        batch_size: Samples a batch.
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """An epoch."""
        order = torch.randperm(len(self.labels), device=self.labels.device)
        for index in order.split(self.batch_size):
            yield self.images[index], self.labels[index]
