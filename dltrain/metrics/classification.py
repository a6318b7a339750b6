"""How well classes are told apart."""

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
    """The class with the highest score, -1 where a score is NaN: argmax would give class 0.

    Args:
        scores: (..., classes).

    Returns:
        (...) int64.
    """
    return scores.argmax(dim=-1).masked_fill(scores.isnan().any(dim=-1), -1)


class ConfusionCounts:
    """Counts how often each class was predicted as each other; what most metrics are made of.

    A sample with a NaN score belongs to no predicted class: the matrix leaves it out, and every
    scalar is NaN.
    """

    scalars: Mapping[str, bool]

    def __init__(self, spec: DataSpec, name: str) -> None:
        _require_classes(spec, name)
        self.num_classes: int = spec.num_classes
        self.reset()

    def reset(self) -> None:
        """Forgets every sample."""
        self._counts: Tensor | None = None

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Adds a batch: (batch, classes) probabilities and (batch,) int64 classes."""
        counts = self._counts
        if counts is None:
            size = self.num_classes**2 + 1
            counts = torch.zeros(size, dtype=torch.int64, device=targets.device)
        predicted = predicted_classes(predictions)
        cells = targets * self.num_classes + predicted
        cells = cells.masked_fill(predicted < 0, self.num_classes**2)
        # bincount would wait for a GPU to learn its output's size. Integers add up to the same
        # sum in any order, so index_add is deterministic here.
        self._counts = counts.index_add(0, cells, torch.ones_like(cells))

    @property
    def matrix(self) -> Tensor:
        """Samples by true class (row) and predicted class (column), (classes, classes) int64."""
        if self._counts is None:
            return torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)
        return self._counts[:-1].view(self.num_classes, self.num_classes)

    @property
    def is_undefined(self) -> bool:
        """Whether there was no sample, or one whose scores are NaN; waits for the device."""
        return self._counts is None or bool(self._counts[-1] > 0)


@METRICS.register("accuracy")
class Accuracy(ConfusionCounts):
    """Share of samples whose most probable class is the right one."""

    scalars: Mapping[str, bool] = {"accuracy": True}

    def __init__(self, spec: DataSpec, /) -> None:
        """Raises UsageError where the data has no classes."""
        super().__init__(spec, "accuracy")

    def compute(self) -> dict[str, float]:
        """The accuracy; NaN without samples or with a NaN score."""
        if self.is_undefined:
            return {"accuracy": NAN}
        matrix = self.matrix.cpu()
        return {"accuracy": ratio(int(matrix.trace()), int(matrix.sum()))}


@METRICS.register("confusion_matrix")
class ConfusionMatrix(ConfusionCounts):
    """How often each class was predicted as each other; `matrix` holds the counts."""

    scalars: Mapping[str, bool] = {}

    def __init__(self, spec: DataSpec, /) -> None:
        """Raises UsageError where the data has no classes."""
        super().__init__(spec, "confusion_matrix")

    def compute(self) -> dict[str, float]:
        """No scalars."""
        return {}


class _PerClass(ConfusionCounts):
    """A ratio of counts for each class, averaged as scikit-learn does."""

    def __init__(
        self,
        spec: DataSpec,
        name: str,
        average: Average,
        terms: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> None:
        """`terms` turns hits, predictions and targets of each class into a ratio's two terms."""
        super().__init__(spec, name)
        self.average = average
        self.terms = terms
        names = [f"{name}/{c}" for c in spec.class_names] if average == "none" else [name]
        self.scalars: Mapping[str, bool] = dict.fromkeys(names, True)

    def compute(self) -> dict[str, float]:
        """The average, or one scalar a class; NaN without samples or with a NaN score.

        A ratio whose denominator is 0, such as the recall of a class without samples, is NaN as a
        scalar of its class, and counts as 0 in an average. A class that neither targets nor
        predictions contain takes no part in the average.
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
    """Of the samples predicted as a class, the share that belong to it.

    Args:
        average: macro is the mean over classes, micro counts each sample once, none gives one
            scalar a class.
    """
    return _PerClass(spec, "precision", average, lambda hit, predicted, actual: (hit, predicted))


@METRICS.register
def recall(spec: DataSpec, /, *, average: Average = "macro") -> Metric:
    """Of the samples that belong to a class, the share predicted as it.

    Args:
        average: macro is the mean over classes, micro counts each sample once, none gives one
            scalar a class.
    """
    return _PerClass(spec, "recall", average, lambda hit, predicted, actual: (hit, actual))


@METRICS.register
def f1(spec: DataSpec, /, *, average: Average = "macro") -> Metric:
    """Harmonic mean of precision and recall.

    Args:
        average: macro is the mean over classes, micro counts each sample once, none gives one
            scalar a class.
    """
    return _PerClass(
        spec, "f1", average, lambda hit, predicted, actual: (2 * hit, predicted + actual)
    )


@METRICS.register("top_k")
class TopK:
    """Share of samples whose class is among the k most probable ones; its scalar is `top_<k>`.

    Args:
        k: How many classes to look at.

    Raises:
        UsageError: The data has no classes, or fewer than k.
    """

    def __init__(self, spec: DataSpec, /, *, k: PositiveInt = 5) -> None:
        """Takes the option that the class describes."""
        _require_classes(spec, "top_k")
        if k > spec.num_classes:
            raise UsageError(
                f"metric 'top_k' has k = {k}, and the data has {spec.num_classes} classes"
            )
        self.k = k
        self.name: str = f"top_{k}"
        self.scalars: Mapping[str, bool] = {self.name: True}
        self.reset()

    def reset(self) -> None:
        """Forgets every sample."""
        self._hits: Tensor | None = None
        self._num_samples = 0

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Adds a batch: (batch, classes) probabilities and (batch,) int64 classes."""
        best = predictions.topk(self.k, dim=1).indices
        # A NaN score would rank first; it makes the sum NaN. Counts are exact in float64.
        undefined = predictions.isnan().any(dim=1, keepdim=True)
        hits = (best == targets[:, None]).to(widest_float(predictions.device))
        hits = hits.masked_fill(undefined, NAN).sum()
        self._hits = hits if self._hits is None else self._hits + hits
        self._num_samples += len(targets)

    def compute(self) -> dict[str, float]:
        """The share; NaN without samples or with a NaN score."""
        hits = 0.0 if self._hits is None else float(self._hits)
        return {self.name: ratio(hits, self._num_samples)}


@METRICS.register("auroc")
class Auroc:
    """Area under the ROC curve: how probably a sample of a class scores above one of the rest.

    Of two classes, the second one's; of more, the mean over those that some samples have and others
    lack. All scores are kept, on the device, until `reset`.
    """

    scalars: Mapping[str, bool] = {"auroc": True}

    def __init__(self, spec: DataSpec, /) -> None:
        """Raises UsageError where the data has no classes."""
        _require_classes(spec, "auroc")
        # The first of two classes has the same area as the second.
        self.classes: list[int] = [1] if spec.num_classes == 2 else list(range(spec.num_classes))
        self.reset()

    def reset(self) -> None:
        """Forgets every sample."""
        self._scores: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Adds a batch: (batch, classes) probabilities and (batch,) int64 classes."""
        self._scores.append(predictions.detach())
        self._targets.append(targets)

    def compute(self) -> dict[str, float]:
        """The area; NaN where no class has both samples and others to compare them with.

        A NaN score, which has no rank, makes it NaN too.
        """
        if not self._scores:
            return {"auroc": NAN}
        scores, targets = torch.cat(self._scores).cpu(), torch.cat(self._targets).cpu()
        if scores.isnan().any():
            return {"auroc": NAN}
        areas = [_auroc(scores[:, c], targets == c) for c in self.classes]
        return {"auroc": float(torch.tensor(areas, dtype=torch.float64).nanmean())}


def _auroc(scores: Tensor, positive: Tensor) -> float:
    """The Mann-Whitney statistic over its maximum (Hanley and McNeil, 1982).

    Args:
        scores: (samples,) float.
        positive: (samples,) bool.
    """
    num_positive = int(positive.sum())
    num_pairs = num_positive * (len(positive) - num_positive)
    # Equal scores share the mean of the ranks, counted from 1, that they take up together.
    _, position, counts = scores.unique(return_inverse=True, return_counts=True)
    ranks = counts.cumsum(dim=0).double() - (counts - 1) / 2
    rank_sum = float(ranks[position][positive].sum())
    return ratio(rank_sum - num_positive * (num_positive + 1) / 2, num_pairs)


def _require_classes(spec: DataSpec, name: str) -> None:
    if spec.num_classes == 0:
        raise UsageError(
            f"metric {name!r} is for classes, and this data has values to predict: "
            "use 'mse', 'mae' or 'r2'"
        )
