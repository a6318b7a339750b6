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
    """The samples of one split, in batches."""

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
        """Iterate over batches of `batch_size` samples; the last one may be smaller.

        Args:
            batch_size: Samples per batch, over all ranks.
            epoch: The training epoch, which determines the order and the augmentation; None reads
                the samples unshuffled, without augmentation.
            offset: Number of batches to skip at the start, at no cost.
            rank_slice: Shard of each batch to read. Order, padding and random numbers are those of
                the whole batch.
        """
        ...


@dataclass(frozen=True)
class DataContext:
    """Context in which a data source is built.

    Attributes:
        root: Directory of the files where `data.root` is not set.
        seed: Seed of the validation split, the order and the augmentation.
        device: Device on which batches are placed.
        dtype: Floating-point dtype of inputs and of regression targets.
        warn: Function that shows a line to the user.
    """

    root: Path
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    warn: Callable[[str], None] = print


@dataclass(frozen=True)
class Data:
    """The splits of a data source and their specification.

    Attributes:
        spec: Specification that the model is built from.
        train: Training split, without the validation samples.
        validation: Taken from the training split; selects the best checkpoint. None without one.
        test: Evaluated once, at the end; never selects. None where the source has none.
        source: Origin of the samples: a directory, a sample of a package, or a formula.
        fingerprint: SHA-256 over the decoded samples.
        files: Every file that has been or will be read; empty if the source does not list them.
        split_fingerprint: Identifies the samples of each split; empty if `fingerprint` covers them,
            or if the source does not provide it.
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
    """A process group of one rank, whose operations cost nothing.

    `distributed.process_group.TorchProcessGroup` overrides the operations for several ranks.

    Attributes:
        rank_slice: Shard of each batch that this rank processes.
        local_rank: Number of this rank on its machine, which is also the index of its GPU.
    """

    rank_slice: RankSlice = FULL_BATCH
    local_rank = 0

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.rank_slice.world_size

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files."""
        return self.rank_slice.rank == 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all ranks, bitwise identical on each."""
        return tensor

    def all_reduce_max(self, number: int) -> int:
        """Return the maximum over all ranks. It is exchanged between CPUs, without device sync."""
        return number

    def all_gather(self, batch: Batch, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the rows of all shards of a batch on every rank, without placeholders.

        Args:
            batch: The shard of this rank.
            *tensors: (rows, ...) each; the number of rows may differ between ranks.
        """
        return tensors

    def all_gather_object(self, value: Any) -> list[Any]:
        """Return the values of all ranks, on every rank."""
        return [value]

    def broadcast_object(self, make: Callable[[], Any]) -> Any:
        """Return on every rank the value of a function that is called on rank 0."""
        return make()

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the tensors of rank 0 on every rank; the arguments of other ranks are ignored."""
        return tensors

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of rank 0."""

    @contextmanager
    def local_rank_zero_first(self) -> Iterator[None]:
        """Run the context on local rank 0 of each machine before the other ranks."""
        yield

    def is_peer_failure(self, error: Exception) -> bool:
        """Return whether an error means that another rank has ended, or does not respond."""
        return False

    def root_cause(self, error: Exception) -> Exception:
        """Return the error of another rank if it caused this one; otherwise this one."""
        return error


class Loss(nn.Module):
    """A loss with its link function.

    Attributes:
        num_outputs: Required width of the model's output.
    """

    num_outputs: int

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, (batch,), multiplied by the sample's weight."""
        raise NotImplementedError

    def weight(self, targets: Tensor) -> Tensor | int:
        """Return the divisor of the summed loss: the number of samples, or the sum of weights."""
        return len(targets)

    def predict(self, outputs: Tensor) -> Tensor:
        """Return probabilities (batch, classes), or values (batch, values) in the target's unit."""
        return outputs

    def targets(self, targets: Tensor) -> Tensor:
        """Return targets for comparison with predictions: classes, or values in their unit."""
        return targets


class Metric(Protocol):
    """A metric as sums over samples on the device; its value is independent of the batch size."""

    @property
    def scalars(self) -> Mapping[str, bool | None]:
        """Names of the scalars that `compute` returns, and whether higher is better.

        None where that is unknown; such a scalar can't be monitored.
        """
        ...

    def reset(self) -> None:
        """Set all sums to zero."""
        ...

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch to the sums.

        Args:
            predictions: (batch, classes) probabilities, or (batch, values).
            targets: (batch,) int64, or (batch, values).
        """
        ...

    def compute(self) -> dict[str, float]:
        """Return the scalars over all samples since `reset`; NaN where they are undefined."""
        ...
