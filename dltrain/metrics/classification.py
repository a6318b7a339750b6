"""Metrics of classification."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from dltrain.core.data_spec import DataSpec
from dltrain.core.errors import UsageError
from dltrain.core.option_types import PositiveInt
from dltrain.core.protocols import Metric
from dltrain.core.registry import METRICS
from dltrain.metrics.ratio import NAN, ratio, widest_float

Average = Literal["macro", "micro", "none"]


def predicted_classes(scores: Tensor) -> Tensor:
    """Return the class with the highest score, or -1 where a score is NaN.

    Args:
        scores: (..., classes).

    Returns:
        (...) int64.
    """
    return scores.argmax(dim=-1).masked_fill(scores.isnan().any(dim=-1), -1)


class ConfusionCounts:
    """Counts of predicted classes per true class, from which most metrics are computed.

    A sample with a NaN score has no predicted class: the matrix omits it, and every scalar is NaN.
    """

    scalars: Mapping[str, bool]

    def __init__(self, spec: DataSpec, name: str) -> None:
        _require_classes(spec, name)
        self.num_classes: int = spec.num_classes
        self.reset()

    def reset(self) -> None:
        """Reset all sums."""
        self._counts: Tensor | None = None

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch: (batch, classes) probabilities and (batch,) int64 classes."""
        counts = self._counts
        if counts is None:
            size = self.num_classes**2 + 1
            counts = torch.zeros(size, dtype=torch.int64, device=targets.device)
        predicted = predicted_classes(predictions)
        cells = targets * self.num_classes + predicted
        cells = cells.masked_fill(predicted < 0, self.num_classes**2)
        # bincount would synchronize with a GPU to get the size of its output. A sum of integers
        # does not depend on their order, so index_add is deterministic here.
        self._counts = counts.index_add(0, cells, torch.ones_like(cells))

    @property
    def matrix(self) -> Tensor:
        """Number of samples by true class (row) and predicted class (column), int64."""
        if self._counts is None:
            return torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)
        return self._counts[:-1].view(self.num_classes, self.num_classes)

    @property
    def is_undefined(self) -> bool:
        """Whether there was no sample, or one with a NaN score; synchronizes with the device."""
        return self._counts is None or bool(self._counts[-1] > 0)


@METRICS.register("accuracy")
class Accuracy(ConfusionCounts):
    """Fraction of samples whose most probable class is correct.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> metric = Accuracy(DataSpec((4,), 2, TableInputs(()), class_names=("cat", "dog")))
        >>> metric.update(torch.tensor([[0.9, 0.1], [0.3, 0.7]]), torch.tensor([0, 0]))
        >>> metric.compute()
        {'accuracy': 0.5}
    """

    scalars: Mapping[str, bool] = {"accuracy": True}

    def __init__(self, spec: DataSpec, /) -> None:
        """Raise a UsageError where the data has no classes."""
        super().__init__(spec, "accuracy")

    def compute(self) -> dict[str, float]:
        """Return the accuracy; NaN without samples or with a NaN score."""
        if self.is_undefined:
            return {"accuracy": NAN}
        matrix = self.matrix.cpu()
        return {"accuracy": ratio(int(matrix.trace()), int(matrix.sum()))}


@METRICS.register("confusion_matrix")
class ConfusionMatrix(ConfusionCounts):
    """Number of samples by true and predicted class, in the attribute `matrix`.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> spec = DataSpec((4,), 2, TableInputs(()), class_names=("cat", "dog"))
        >>> metric = ConfusionMatrix(spec)
        >>> metric.update(torch.tensor([[0.9, 0.1], [0.3, 0.7]]), torch.tensor([0, 0]))
        >>> metric.matrix
        tensor([[1, 1],
                [0, 0]])
    """

    scalars: Mapping[str, bool] = {}

    def __init__(self, spec: DataSpec, /) -> None:
        """Raise a UsageError where the data has no classes."""
        super().__init__(spec, "confusion_matrix")

    def compute(self) -> dict[str, float]:
        """Return no scalars."""
        return {}


class _PerClass(ConfusionCounts):
    """A ratio of counts for each class, averaged as in scikit-learn."""

    def __init__(
        self,
        spec: DataSpec,
        name: str,
        average: Average,
        terms: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> None:
        """`terms` returns numerator and denominator from hits, predictions and targets."""
        super().__init__(spec, name)
        self.average = average
        self.terms = terms
        names = [f"{name}/{c}" for c in spec.class_names] if average == "none" else [name]
        self.scalars: Mapping[str, bool] = dict.fromkeys(names, True)

    def compute(self) -> dict[str, float]:
        """Return the average, or one scalar per class; NaN without samples or with a NaN score.

        A ratio whose denominator is 0, such as the recall of a class without samples, is NaN as the
        scalar of a class and 0 in an average. An average ignores classes that occur neither in
        targets nor in predictions.
        """
        if self.is_undefined:
            return dict.fromkeys(self.scalars, NAN)
        matrix = self.matrix.cpu()
        hits, predicted, actual = matrix.diag(), matrix.sum(dim=0), matrix.sum(dim=1)
        above, below = self.terms(hits, predicted, actual)
        if self.average == "micro":
            values = [ratio(int(above.sum()), int(below.sum()))]
        else:
            ratios = above.double() / below.clamp(min=1)
            if self.average == "macro":
                ratios = ratios[(predicted + actual) > 0].mean(dim=0, keepdim=True)
            else:
                ratios = ratios.masked_fill(below == 0, NAN)
            values = ratios.tolist()
        return dict(zip(self.scalars, values, strict=True))


@METRICS.register
def precision(spec: DataSpec, /, *, average: Average = "macro") -> Metric:
    """Fraction of the samples predicted as a class that belong to it.

    Args:
        average: macro is the mean over classes, micro counts each sample once, none reports one
            scalar per class.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> metric = precision(DataSpec((4,), 2, TableInputs(()), class_names=("cat", "dog")))
        >>> metric.update(torch.tensor([[0.9, 0.1], [0.3, 0.7]]), torch.tensor([0, 0]))
        >>> metric.compute()
        {'precision': 0.5}
    """
    return _PerClass(spec, "precision", average, lambda hit, predicted, actual: (hit, predicted))


@METRICS.register
def recall(spec: DataSpec, /, *, average: Average = "macro") -> Metric:
    """Fraction of the samples of a class that are predicted as it.

    Args:
        average: macro is the mean over classes, micro counts each sample once, none reports one
            scalar per class.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> metric = recall(DataSpec((4,), 2, TableInputs(()), class_names=("cat", "dog")))
        >>> metric.update(torch.tensor([[0.9, 0.1], [0.3, 0.7]]), torch.tensor([0, 0]))
        >>> metric.compute()
        {'recall': 0.25}
    """
    return _PerClass(spec, "recall", average, lambda hit, predicted, actual: (hit, actual))


@METRICS.register
def f1(spec: DataSpec, /, *, average: Average = "macro") -> Metric:
    """Harmonic mean of precision and recall.

    Args:
        average: macro is the mean over classes, micro counts each sample once, none reports one
            scalar per class.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> metric = f1(DataSpec((4,), 2, TableInputs(()), class_names=("cat", "dog")))
        >>> metric.update(torch.tensor([[0.9, 0.1], [0.3, 0.7]]), torch.tensor([0, 0]))
        >>> metric.compute()
        {'f1': 0.3333333333333333}
    """
    return _PerClass(
        spec, "f1", average, lambda hit, predicted, actual: (2 * hit, predicted + actual)
    )


@METRICS.register("top_k")
class TopK:
    """Fraction of samples whose class is among the k most probable ones, as scalar `top_<k>`.

    Args:
        k: Number of classes to consider.

    Raises:
        UsageError: The data has no classes, or fewer than k.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> metric = TopK(DataSpec((4,), 2, TableInputs(()), class_names=("cat", "dog")), k=1)
        >>> metric.update(torch.tensor([[0.9, 0.1], [0.3, 0.7]]), torch.tensor([0, 0]))
        >>> metric.compute()
        {'top_1': 0.5}
    """

    def __init__(self, spec: DataSpec, /, *, k: PositiveInt = 5) -> None:
        """See the class for the option."""
        _require_classes(spec, "top_k")
        if k > spec.num_classes:
            raise UsageError(
                f"metric 'top_k' expected k of at most {spec.num_classes} (classes), got {k}"
            )
        self.k = k
        self.name: str = f"top_{k}"
        self.scalars: Mapping[str, bool] = {self.name: True}
        self.reset()

    def reset(self) -> None:
        """Reset all sums."""
        self._hits: Tensor | None = None
        self._num_samples = 0

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch: (batch, classes) probabilities and (batch,) int64 classes."""
        best = predictions.topk(self.k, dim=1).indices
        # A NaN score would rank first; it must make the sum NaN. float64 counts exactly.
        undefined = predictions.isnan().any(dim=1, keepdim=True)
        hits = (best == targets[:, None]).to(widest_float(predictions.device))
        hits = hits.masked_fill(undefined, NAN).sum()
        self._hits = hits if self._hits is None else self._hits + hits
        self._num_samples += len(targets)

    def compute(self) -> dict[str, float]:
        """Return the fraction; NaN without samples or with a NaN score."""
        hits = 0.0 if self._hits is None else float(self._hits)
        return {self.name: ratio(hits, self._num_samples)}


@METRICS.register("auroc")
class Auroc:
    """Area under the ROC curve: probability that a sample of a class scores above another one.

    For two classes, this is the area of the second; for more, the mean over all classes that have
    positive and negative samples. All scores are kept, on the device, until `reset`.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> metric = Auroc(DataSpec((4,), 2, TableInputs(()), class_names=("cat", "dog")))
        >>> metric.update(torch.tensor([[0.9, 0.1], [0.3, 0.7]]), torch.tensor([1, 0]))
        >>> metric.compute()
        {'auroc': 0.0}
    """

    scalars: Mapping[str, bool] = {"auroc": True}

    def __init__(self, spec: DataSpec, /) -> None:
        """Raise a UsageError where the data has no classes."""
        _require_classes(spec, "auroc")
        # Both classes of two have the same area.
        self.classes: list[int] = [1] if spec.num_classes == 2 else list(range(spec.num_classes))
        self.reset()

    def reset(self) -> None:
        """Reset all sums."""
        self._scores: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch: (batch, classes) probabilities and (batch,) int64 classes."""
        self._scores.append(predictions.detach())
        self._targets.append(targets)

    def compute(self) -> dict[str, float]:
        """Return the area; NaN where no class has both positive and negative samples.

        A NaN score, which has no rank, makes the area NaN too.
        """
        if not self._scores:
            return {"auroc": NAN}
        scores, targets = torch.cat(self._scores).cpu(), torch.cat(self._targets).cpu()
        if scores.isnan().any():
            return {"auroc": NAN}
        areas = [_auroc(scores[:, c], targets == c) for c in self.classes]
        return {"auroc": float(torch.tensor(areas, dtype=torch.float64).nanmean())}


def _auroc(scores: Tensor, positive: Tensor) -> float:
    """Return the Mann-Whitney statistic over its maximum (Hanley and McNeil, 1982).

    Args:
        scores: (samples,) float.
        positive: (samples,) bool.
    """
    num_positive = int(positive.sum())
    num_pairs = num_positive * (len(positive) - num_positive)
    # Equal scores have the mean of their ranks, which are counted from 1.
    _, position, counts = scores.unique(return_inverse=True, return_counts=True)
    ranks = counts.cumsum(dim=0).double() - (counts - 1) / 2
    rank_sum = float(ranks[position][positive].sum())
    return ratio(rank_sum - num_positive * (num_positive + 1) / 2, num_pairs)


def _require_classes(spec: DataSpec, name: str) -> None:
    if spec.num_classes == 0:
        raise UsageError(
            f"metric {name!r} expected classes, and this data has values to predict: "
            "use 'mse', 'mae' or 'r2'"
        )
