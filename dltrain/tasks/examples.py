"""Samples of a split to show in figures."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from dltrain.core.batch import Batch
from dltrain.core.protocols import ProcessGroup


class Examples:
    """The first samples of each class of a split; folders are often sorted by class.

    Args:
        max_samples: Maximum number of samples.
        num_classes: Number of classes; 0 for regression.
        process_group: The ranks that read the split.
    """

    def __init__(self, max_samples: int, num_classes: int, process_group: ProcessGroup) -> None:
        self.max_samples = max_samples
        self.process_group = process_group
        self._classes = max(1, num_classes)
        self._per_class = -(-max_samples // self._classes)
        self._wanted = self._per_class * min(self._classes, max_samples)
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        self._counts: Counter[int] = Counter()
        self._ranks_in_class: list[int] = []  # number of the sample in its class, from 1
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(self, batch: Batch, predictions: Tensor, targets: Tensor) -> None:
        """Keep samples of a batch; synchronizes with the device until all are collected.

        Args:
            batch: The shard of this rank.
            predictions: (samples, ...), of all ranks.
            targets: (samples,) int64 classes or (samples, values), of all ranks.
        """
        if len(self._ranks_in_class) == self._wanted:
            return
        places = []
        for place, kind in enumerate(targets.tolist() if self._classes > 1 else [0] * len(targets)):
            if self._counts[kind] < self._per_class and len(self._ranks_in_class) < self._wanted:
                self._counts[kind] += 1
                self._ranks_in_class.append(self._counts[kind])
                places.append(place)
        if places:
            (inputs,) = self.process_group.all_gather(batch, batch.inputs)
            index = torch.tensor(places, device=targets.device)
            self._parts.append((inputs[index], predictions[index], targets[index]))

    def selected(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return inputs, predictions and targets in the split's order; None without samples."""
        if not self._parts:
            return None
        ranks = torch.tensor(self._ranks_in_class)
        places = ranks.argsort(stable=True)[: self.max_samples].sort().values
        columns = [torch.cat(parts) for parts in zip(*self._parts, strict=True)]
        inputs, predictions, targets = (column[places.to(column.device)] for column in columns)
        return inputs, predictions, targets
