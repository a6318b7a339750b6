"""Some samples of a split, to be looked at."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from dltrain.core.batch import Batch
from dltrain.core.protocols import ProcessGroup


class Examples:
    """The first samples of a split, but equally many of each class: a folder is often sorted.

    Args:
        most: How many to keep.
        num_classes: 0 where the targets are no classes; all samples are of one then.
        world: The processes that read the split.
    """

    def __init__(self, most: int, num_classes: int, process_group: ProcessGroup) -> None:
        self.most = most
        self.process_group = process_group
        self._classes = max(1, num_classes)
        self._of_each = -(-most // self._classes)
        self._wanted = self._of_each * min(self._classes, most)
        self.reset()

    def reset(self) -> None:
        """Forgets all."""
        self._kept: Counter[int] = Counter()
        self._turns: list[int] = []  # 1 for the first sample of a class, and so on
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(self, batch: Batch, predictions: Tensor, targets: Tensor) -> None:
        """Keeps what is wanted of a batch; waits for the device until all is found.

        Args:
            batch: This process's share.
            predictions: (samples, ...), of all processes.
            targets: (samples,) int64 classes or (samples, values), likewise.
        """
        if len(self._turns) == self._wanted:
            return
        places = []
        for place, kind in enumerate(targets.tolist() if self._classes > 1 else [0] * len(targets)):
            if self._kept[kind] < self._of_each and len(self._turns) < self._wanted:
                self._kept[kind] += 1
                self._turns.append(self._kept[kind])
                places.append(place)
        if places:
            (inputs,) = self.process_group.all_gather(batch, batch.inputs)
            index = torch.tensor(places, device=targets.device)
            self._parts.append((inputs[index], predictions[index], targets[index]))

    def chosen(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Inputs, predictions and targets, in the split's order; None where nothing was kept."""
        if not self._parts:
            return None
        turns = torch.tensor(self._turns)
        places = turns.argsort(stable=True)[: self.most].sort().values
        columns = [torch.cat(parts) for parts in zip(*self._parts, strict=True)]
        inputs, predictions, targets = (column[places.to(column.device)] for column in columns)
        return inputs, predictions, targets
