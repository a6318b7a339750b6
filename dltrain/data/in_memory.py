"""Data that fits in memory: whole tensors on the device, from which a batch is one gather."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from dltrain.core.batch import FULL_BATCH, Batch, RankSlice
from dltrain.core.data_spec import DataSpec
from dltrain.core.protocols import Data, DataContext
from dltrain.data.seeding import epoch_order

Transform = Callable[[Tensor, Tensor, int | Tensor | None], Tensor]
"""Function from stored samples, their index and the epoch (None: no augmentation) to inputs."""


class InMemory:
    """A split with all samples on the device in their compact dtype; see `core.protocols.Split`."""

    def __init__(
        self, samples: Tensor, targets: Tensor, *, seed: int, transform: Transform | None = None
    ) -> None:
        """Args:
        samples: (samples, ...), on the device.
        targets: (samples,) int64 or (samples, values) float, on the device.
        seed: Seed of each epoch's sample order.
        transform: Function from a batch of samples to inputs; None if samples are inputs.
        """
        self.samples = samples
        self.targets = targets
        self.seed = seed
        self.transform = transform

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def batches(
        self,
        batch_size: int,
        *,
        epoch: int | None = None,
        offset: int = 0,
        rank_slice: RankSlice = FULL_BATCH,
    ) -> Iterator[Batch]:
        """See `Split.batches`."""
        total, device = len(self), self.samples.device
        shuffled = epoch is not None
        order = self.epoch_order(epoch) if shuffled else torch.arange(total, device=device)
        for start in range(offset * batch_size, total, batch_size):
            whole = order[start : start + batch_size]
            part = rank_slice.bounds(len(whole))
            index = whole[part]
            if shuffled:
                inputs, targets = self.gather(index, epoch)
            else:
                place = slice(start + part.start, start + part.stop)
                inputs, targets = self.samples[place], self.targets[place]
                if self.transform is not None:
                    inputs = self.transform(inputs, index, None)
            yield rank_slice.make_batch(inputs, targets, index, len(whole))

    def epoch_order(self, epoch: int) -> Tensor:
        """Return the sample order of a training epoch, (samples,) int64, on the device."""
        return to_device(epoch_order(len(self), self.seed, epoch), self.samples.device)

    def gather(self, index: Tensor, epoch: int | Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of the samples (batch,) int64 in a training epoch.

        The epoch may be an int64 scalar on the device: there is no synchronization.
        """
        samples, targets = self.samples.index_select(0, index), self.targets.index_select(0, index)
        if self.transform is not None:
            samples = self.transform(samples, index, epoch)
        return samples, targets


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to the device without waiting for a GPU's pending computation."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def in_memory_data(
    context: DataContext,
    spec: DataSpec,
    parts: Mapping[str, tuple[Tensor, Tensor]],
    *,
    source: str,
    transform: Transform | None = None,
    fingerprint: str,
    files: tuple[Path, ...] = (),
    split_fingerprint: str = "",
) -> Data:
    """Return splits on the device, from samples and targets of `train`, `validation` and `test`.

    A part that is absent or empty becomes None.
    """

    def split(name: str) -> InMemory | None:
        samples, targets = parts.get(name, (torch.empty(0), torch.empty(0)))
        if not len(samples):
            return None
        samples, targets = samples.to(context.device), targets.to(context.device)
        return InMemory(samples, targets, seed=context.seed, transform=transform)

    train = split("train")
    assert train is not None
    return Data(
        spec,
        train,
        split("validation"),
        split("test"),
        source,
        fingerprint,
        files,
        split_fingerprint,
    )


def class_counts(targets: Tensor, num_classes: int) -> tuple[int, ...]:
    """Return the number of samples of each class."""
    return tuple(torch.bincount(targets, minlength=num_classes).tolist())


def fingerprint(*tensors: Tensor) -> str:
    """Return the SHA-256, in hexadecimal, of dtypes, shapes and bytes of CPU tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
