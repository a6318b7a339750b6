"""MNIST as tensors in memory and as a torchvision data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MEAN, STD = 0.1307, 0.3081


def tensors(root: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """Return a split as tensors.

    Returns:
        Normalized images of shape (samples, 1, 28, 28), float32, and labels of shape (samples,),
        int64.
    """
    name = "train" if train else "t10k"
    folder = root / "MNIST" / "raw"
    # The headers have 16 and 8 bytes; dltrain/data/idx.py describes the format.
    pixels = np.fromfile(folder / f"{name}-images-idx3-ubyte", np.uint8, offset=16)
    labels = np.fromfile(folder / f"{name}-labels-idx1-ubyte", np.uint8, offset=8)
    images = torch.from_numpy(pixels).view(-1, 1, 28, 28).float()
    return images.div_(255).sub_(MEAN).div_(STD), torch.from_numpy(labels).long()


def dataset(root: Path, *, train: bool) -> torch.utils.data.Dataset:
    """Return a split as torchvision's data set, which decodes and normalizes single images."""
    from torchvision import datasets, transforms

    steps = [transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
    return datasets.MNIST(root, train, transforms.Compose(steps))


class TensorBatches:
    """Shuffled batches of tensors in memory, each gathered in one operation.

    Args:
        images: Images on the device, of shape (samples, ...).
        labels: Labels on the device, of shape (samples,).
        batch_size: Samples per batch.
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch."""
        order = torch.randperm(len(self.labels), device=self.labels.device)
        for index in order.split(self.batch_size):
            yield self.images[index], self.labels[index]
