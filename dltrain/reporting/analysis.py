"""What a model gets right and wrong on a split: counts of fixed size, and the worst mistakes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dltrain.metrics.classification import ConfusionMatrix, predicted_classes
from dltrain.spec import DataSpec

BINS = 15
"""Bins of confidence, as many as Guo et al. use."""


@dataclass(frozen=True)
class Mistake:
    """A sample that the model gets wrong.

    Attributes:
        index: Its number in the split.
        size: What it is sorted by.
        inputs: (*input_shape), on the CPU.
        prediction: (classes,) probabilities, or (values,).
        target: () the class, or (values,).
    """

    index: int
    size: float
    inputs: Tensor
    prediction: Tensor
    target: Tensor


class Worst:
    """The samples with the largest errors."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.found: list[Mistake] = []

    def update(
        self, inputs: Tensor, predictions: Tensor, targets: Tensor, index: Tensor, sizes: Tensor
    ) -> None:
        """Adds a batch; `sizes`, (batch,), are the errors, 0 where there is none."""
        best = sizes.topk(min(self.count, len(sizes)))
        for size, row in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if size > 0:
                sample = (values[row].cpu() for values in (inputs, predictions, targets))
                self.found.append(Mistake(int(index[row]), size, *sample))
        self.found = sorted(self.found, key=lambda mistake: -mistake.size)[: self.count]


class Calibration:
    """How far confidence and accuracy agree."""

    def __init__(self) -> None:
        self.sums = torch.zeros(3, BINS, dtype=torch.float64)

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        """Adds a batch: (batch, classes) probabilities and (batch,) int64 classes.

        Samples with a NaN probability are left out: they have no confidence.
        """
        defined = ~probabilities.isnan().any(dim=1)
        confidence, guesses = probabilities[defined].cpu().double().max(dim=1)
        right = (guesses == targets[defined].cpu()).double()
        place = ((confidence * BINS).ceil().long() - 1).clamp(0, BINS - 1)
        self.sums.index_add_(1, place, torch.stack([torch.ones_like(right), confidence, right]))

    @property
    def bins(self) -> list[tuple[int, float, float]]:
        """Samples, mean confidence and accuracy of each bin of confidence."""
        count, confidence, right = self.sums
        some = count.clamp(min=1)
        return list(
            zip(
                count.int().tolist(),
                (confidence / some).tolist(),
                (right / some).tolist(),
                strict=True,
            )
        )

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap over samples, by bin of confidence.

        Guo et al., "On calibration of modern neural networks", 2017, equation 3; bin m holds the
        confidences in ((m - 1) / 15, m / 15].
        """
        count, confidence, right = self.sums
        return float((confidence - right).abs().sum() / count.sum().clamp(min=1))


class ClassificationAnalysis:
    """What a classifier makes of a split."""

    def __init__(self, spec: DataSpec, worst: int) -> None:
        self.names = spec.class_names
        self.confusion, self.calibration = ConfusionMatrix(spec), Calibration()
        self.worst = Worst(worst)

    def update(self, inputs: Tensor, probabilities: Tensor, targets: Tensor, index: Tensor) -> None:
        """Adds a batch; see `Mistake` for the shapes of a sample."""
        self.confusion.update(probabilities, targets)
        self.calibration.update(probabilities, targets)
        truth = probabilities.gather(1, targets[:, None]).squeeze(1).cpu().double()
        losses = -truth.clamp(min=1e-300).log()
        losses = losses.nan_to_num(nan=float("inf"))
        wrong = (predicted_classes(probabilities) != targets).cpu()
        self.worst.update(inputs, probabilities, targets, index, losses.where(wrong, 0.0))

    def per_class(self) -> list[tuple[str, int, float, float, float]]:
        """Name, samples, precision, recall and F1 of each class; 0 where undefined."""
        counts = self.confusion.matrix.cpu().double()
        hits, predicted, actual = counts.diag(), counts.sum(dim=0), counts.sum(dim=1)
        columns = (
            hits / predicted.clamp(min=1),
            hits / actual.clamp(min=1),
            2 * hits / (predicted + actual).clamp(min=1),
        )
        values = (column.tolist() for column in columns)
        return list(zip(self.names, actual.int().tolist(), *values, strict=True))

    def confusions(self, most: int = 10) -> list[tuple[str, str, int]]:
        """The most frequent confusions: truth, prediction, samples."""
        counts = self.confusion.matrix.cpu().clone().fill_diagonal_(0)
        best = counts.flatten().topk(min(most, counts.numel()))
        return [
            (self.names[place // len(self.names)], self.names[place % len(self.names)], count)
            for count, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            if count
        ]


class RegressionAnalysis:
    """What a regression makes of a split."""

    def __init__(self, worst: int) -> None:
        self.pairs: list[tuple[float, float]] = []
        self.worst = Worst(worst)

    def update(self, inputs: Tensor, predictions: Tensor, targets: Tensor, index: Tensor) -> None:
        """Adds a batch; see `Mistake` for the shapes of a sample."""
        self.pairs += zip(targets[:, 0].tolist(), predictions[:, 0].tolist(), strict=True)
        sizes = (predictions - targets).abs().mean(dim=1)
        self.worst.update(inputs, predictions, targets, index, sizes.nan_to_num(nan=float("inf")))
