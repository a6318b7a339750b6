"""Protocols between data, losses, metrics, the process group and the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dltrain.core.batch import FULL_BATCH, Batch, RankSlice
from dltrain.core.data_spec import DataSpec


class Split(Protocol):
    """The samples of one split, as batches."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def batches(
        self,
        batch_size: int,
        *,
        epoch: int | None = None,
        offset: int = 0,
        rank_slice: RankSlice = FULL_BATCH,
    ) -> Iterator[Batch]:
        """Batches of `batch_size` samples, the last one smaller.

        Args:
            batch_size: Samples a batch.
            epoch: The training epoch, which decides order and augmentation; None reads the samples
                in their own order, without augmentation.
            offset: How many batches to leave out at the start, at no cost.
            share: Which part of each batch to read; a batch is padded and drawn as a whole.
        """
        ...


@dataclass(frozen=True)
class DataContext:
    """What a data source gets from code.

    Attributes:
        root: Where files live when `data.root` does not say.
        seed: Decides the validation cut, the order and the augmentation.
        device: Where batches are wanted.
        dtype: The floating type of inputs and of regression targets.
        say: Prints a line that the user must not miss.
    """

    root: Path
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    warn: Callable[[str], None] = print


@dataclass(frozen=True)
class Data:
    """Splits and what they promise.

    Attributes:
        spec: What the model is built from.
        train: The training split, less the validation part.
        validation: Cut from the training split; chooses the best checkpoint. None if not wanted.
        test: Never chooses; read once, at the end. None where the source has none.
        source: Where the samples came from: a folder, a package's sample, a formula.
        fingerprint: SHA-256 over the decoded samples.
        files: Every file that was read, or will be; empty where a source does not name them.
        split_fingerprint: Identifies which of the samples each split has; empty where
            `fingerprint` covers that, or a source does not say.
    """

    spec: DataSpec
    train: Split
    validation: Split | None
    test: Split | None
    source: str
    fingerprint: str
    files: tuple[Path, ...] = ()
    split_fingerprint: str = ""


class ProcessGroup:
    """One process alone: it has nothing to exchange, and pays nothing for it; else see `world.py`.

    Attributes:
        share: This process's number, from 0, and how many there are.
        local_rank: Its number on its machine, which is also its GPU's.
    """

    rank_slice: RankSlice = FULL_BATCH
    local_rank = 0

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        return self.rank_slice.world_size

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank_slice.rank == 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same bits in each."""
        return tensor

    def all_reduce_max(self, number: int) -> int:
        """The largest number that a process gives; no GPU is waited for."""
        return number

    def all_gather(self, batch: Batch, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Rows of all shares of a batch, in its order, in every process; less those that stand in.

        Args:
            batch: This process's share.
            *tensors: (rows, ...) each; between processes, the number of rows may differ.
        """
        return tensors

    def all_gather_object(self, value: Any) -> list[Any]:
        """The value of every process, in each of them."""
        return [value]

    def broadcast_object(self, make: Callable[[], Any]) -> Any:
        """What the first process makes, a value that is small, in every process."""
        return make()

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The first process's tensors, in every process; what the others give does not matter."""
        return tensors

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites tensors with the first process's."""

    @contextmanager
    def local_rank_zero_first(self) -> Iterator[None]:
        """One process of each machine goes through this context before the others."""
        yield

    def is_peer_failure(self, error: Exception) -> bool:
        """Whether an error says that another process is gone, or does not answer."""
        return False

    def root_cause(self, error: Exception) -> Exception:
        """What an error is called; that of another process, where this one only follows from it."""
        return error


class Loss(nn.Module):
    """A loss and the link function that belongs to it.

    Attributes:
        num_outputs: Width that the model's output must have.
    """

    num_outputs: int

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each sample, (batch,), already multiplied by the sample's weight."""
        raise NotImplementedError

    def weight(self, targets: Tensor) -> Tensor | int:
        """What the batch's summed loss is divided by: the samples, or the sum of their weights."""
        return len(targets)

    def predict(self, outputs: Tensor) -> Tensor:
        """Outputs to probabilities (batch, classes), or to values (batch, values) in own units."""
        return outputs

    def targets(self, targets: Tensor) -> Tensor:
        """Targets as metrics compare them with predictions: classes, or values in own units."""
        return targets


class Metric(Protocol):
    """Sums over samples, kept on the device; the value does not depend on how they were batched."""

    @property
    def scalars(self) -> Mapping[str, bool | None]:
        """Name of each scalar that `compute` gives, and whether higher is better.

        None where that is unknown; the scalar then can't choose a checkpoint.
        """
        ...

    def reset(self) -> None:
        """Forgets every sample."""
        ...

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Adds a batch.

        Args:
            predictions: (batch, classes) probabilities, or (batch, values).
            targets: (batch,) int64, or (batch, values).
        """
        ...

    def compute(self) -> dict[str, float]:
        """The scalars over all samples since `reset`; NaN where they are undefined."""
        ...
