"""Analysis of predictions on a split: error counts, calibration and the largest errors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dltrain.core.data_spec import DataSpec
from dltrain.metrics.classification import ConfusionMatrix, predicted_classes

BINS = 15
"""Number of confidence bins, as in Guo et al., 2017."""


@dataclass(frozen=True)
class PredictionError:
    """A sample whose prediction is wrong.

    Attributes:
        index: Index of the sample in the split.
        size: Size of the error: the cross-entropy of a class, or the mean absolute error of values.
        inputs: (*input_shape), on the CPU.
        prediction: (classes,) probabilities, or (values,).
        target: () the class, or (values,).
    """

    index: int
    size: float
    inputs: Tensor
    prediction: Tensor
    target: Tensor


class LargestErrors:
    """The samples with the largest errors, in descending order.

    Args:
        count: Maximum number of samples to keep.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.found: list[PredictionError] = []

    def update(
        self, inputs: Tensor, predictions: Tensor, targets: Tensor, index: Tensor, sizes: Tensor
    ) -> None:
        """Add a batch; `sizes`, (batch,), are the errors, 0 for a correct prediction."""
        best = sizes.topk(min(self.count, len(sizes)))
        for size, row in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if size > 0:
                sample = (values[row].cpu() for values in (inputs, predictions, targets))
                self.found.append(PredictionError(int(index[row]), size, *sample))
        self.found = sorted(self.found, key=lambda error: -error.size)[: self.count]


class Calibration:
    """Agreement of confidence and accuracy."""

    def __init__(self) -> None:
        self.sums: Tensor = torch.zeros(3, BINS, dtype=torch.float64)

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        """Add a batch: (batch, classes) probabilities and (batch,) int64 classes.

        Samples with a NaN probability have no confidence and are left out.
        """
        defined = ~probabilities.isnan().any(dim=1)
        confidence, guesses = probabilities[defined].cpu().double().max(dim=1)
        right = (guesses == targets[defined].cpu()).double()
        bins = ((confidence * BINS).ceil().long() - 1).clamp(0, BINS - 1)
        self.sums.index_add_(1, bins, torch.stack([torch.ones_like(right), confidence, right]))

    @property
    def bins(self) -> list[tuple[int, float, float]]:
        """Number of samples, mean confidence and accuracy of each confidence bin."""
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
        """Expected calibration error: the gap of each bin, averaged over samples.

        Source: Guo et al., "On calibration of modern neural networks", 2017, equation 3. Bin m
        contains the confidences in ((m - 1) / 15, m / 15].
        """
        count, confidence, right = self.sums
        return float((confidence - right).abs().sum() / count.sum().clamp(min=1))


class ClassificationAnalysis:
    """Confusion matrix, calibration and largest errors of a classifier.

    Args:
        spec: Spec of the data, with the class names.
        num_errors: Maximum number of errors to keep.
    """

    def __init__(self, spec: DataSpec, num_errors: int) -> None:
        self.names: tuple[str, ...] = spec.class_names
        self.confusion: ConfusionMatrix = ConfusionMatrix(spec)
        self.calibration: Calibration = Calibration()
        self.largest: LargestErrors = LargestErrors(num_errors)

    def update(self, inputs: Tensor, probabilities: Tensor, targets: Tensor, index: Tensor) -> None:
        """Add a batch; `PredictionError` has the shapes of a sample."""
        self.confusion.update(probabilities, targets)
        self.calibration.update(probabilities, targets)
        truth = probabilities.gather(1, targets[:, None]).squeeze(1).cpu().double()
        losses = -truth.clamp(min=1e-300).log()
        losses = losses.nan_to_num(nan=float("inf"))
        wrong = (predicted_classes(probabilities) != targets).cpu()
        self.largest.update(inputs, probabilities, targets, index, losses.where(wrong, 0.0))

    def per_class(self) -> list[tuple[str, int, float, float, float]]:
        """Return name, samples, precision, recall and F1 of each class; undefined values are 0."""
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
        """Return the most frequent confusions: true class, predicted class, number of samples."""
        counts = self.confusion.matrix.cpu().clone().fill_diagonal_(0)
        best = counts.flatten().topk(min(most, counts.numel()))
        return [
            (self.names[cell // len(self.names)], self.names[cell % len(self.names)], count)
            for count, cell in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            if count
        ]


class RegressionAnalysis:
    """Pairs of true and predicted values, and the largest errors, of a regression.

    Args:
        num_errors: Maximum number of errors to keep.

    Attributes:
        pairs: True and predicted value of each sample; the first one where there are several.
    """

    def __init__(self, num_errors: int) -> None:
        self.pairs: list[tuple[float, float]] = []
        self.largest: LargestErrors = LargestErrors(num_errors)

    def update(self, inputs: Tensor, predictions: Tensor, targets: Tensor, index: Tensor) -> None:
        """Add a batch; `PredictionError` has the shapes of a sample."""
        self.pairs += zip(targets[:, 0].tolist(), predictions[:, 0].tolist(), strict=True)
        sizes = (predictions - targets).abs().mean(dim=1)
        self.largest.update(inputs, predictions, targets, index, sizes.nan_to_num(nan=float("inf")))
