"""Metrics of generated samples, from the outputs of a classifier of real samples."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dltrain.core.data_spec import DataSpec
from dltrain.core.registry import METRICS
from dltrain.metrics.classification import predicted_classes
from dltrain.metrics.ratio import NAN


@dataclass(frozen=True)
class JudgeOutputs:
    """Outputs of a classifier for samples.

    Attributes:
        probabilities: (samples, classes).
        features: (samples, features), the input of its last layer.
    """

    probabilities: Tensor
    features: Tensor


class GeneratorMetric(ABC):
    """Base class of metrics of a generator: sums over samples, independent of the batch size.

    Attributes:
        scalars: The name of each scalar that `compute` returns, and whether higher is better.
    """

    scalars: Mapping[str, bool]

    @abstractmethod
    def reset(self) -> None:
        """Reset all sums."""

    @abstractmethod
    def update(self, fake: JudgeOutputs, real: JudgeOutputs) -> None:
        """Add a batch of fake and as many real samples."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Return the scalars over all samples since `reset`; NaN where they are undefined."""


@METRICS.register("classifier_confidence")
class ClassifierConfidence(GeneratorMetric):
    """Mean of the highest class probability of the generated samples.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> metric = ClassifierConfidence(DataSpec((4,), 1, TableInputs(())))
        >>> probabilities = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
        >>> fake = JudgeOutputs(probabilities, features=torch.eye(2))
        >>> metric.update(fake, real=fake)
        >>> metric.compute()
        {'classifier_confidence': 0.625}
    """

    scalars: Mapping[str, bool] = {"classifier_confidence": True}

    def __init__(self, spec: DataSpec, /) -> None:
        """The metric has no options."""
        self.reset()

    def reset(self) -> None:
        """See `GeneratorMetric`."""
        self._total: Tensor | float = 0.0
        self._count = 0

    def update(self, fake: JudgeOutputs, real: JudgeOutputs) -> None:
        """See `GeneratorMetric`."""
        self._total = self._total + fake.probabilities.max(dim=1).values.sum()
        self._count += len(fake.probabilities)

    def compute(self) -> dict[str, float]:
        """Return the mean; NaN without samples."""
        mean = float(self._total) / self._count if self._count else NAN
        return {"classifier_confidence": mean}


@METRICS.register("class_coverage")
class ClassCoverage(GeneratorMetric):
    """Evenness of the classes of generated samples, 1 if all are equally frequent.

    `class_coverage` is the exponential of the entropy of the class frequencies, divided by the
    number of classes: k / n where k of n classes are equally frequent and the others are missing.
    `smallest_class_share` and `largest_class_share` are the frequencies of the rarest and of the
    most frequent class.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> metric = ClassCoverage(DataSpec((4,), 1, TableInputs(())))
        >>> probabilities = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
        >>> fake = JudgeOutputs(probabilities, features=torch.eye(2))
        >>> metric.update(fake, real=fake)
        >>> metric.compute()
        {'class_coverage': 0.5, 'smallest_class_share': 0.0, 'largest_class_share': 1.0}
    """

    scalars: Mapping[str, bool] = {
        "class_coverage": True,
        "smallest_class_share": True,
        "largest_class_share": False,
    }

    def __init__(self, spec: DataSpec, /) -> None:
        """The metric has no options."""
        self.reset()

    def reset(self) -> None:
        """See `GeneratorMetric`."""
        self._counts: Tensor | int = 0

    def update(self, fake: JudgeOutputs, real: JudgeOutputs) -> None:
        """See `GeneratorMetric`."""
        num_classes = fake.probabilities.shape[1]
        classes = predicted_classes(fake.probabilities)
        # The last count is that of samples with a NaN probability.
        counts = torch.zeros(num_classes + 1, dtype=torch.int64, device=classes.device)
        classes = classes.masked_fill(classes < 0, num_classes)
        self._counts = self._counts + counts.index_add(0, classes, torch.ones_like(classes))

    def compute(self) -> dict[str, float]:
        """Return the scalars; NaN without samples or with a NaN probability."""
        counts = None if isinstance(self._counts, int) else self._counts.cpu()
        if counts is None or counts[-1] > 0:
            return dict.fromkeys(self.scalars, NAN)
        shares = counts[:-1].double() / counts.sum()
        entropy = float(torch.special.entr(shares).sum())
        return {
            "class_coverage": math.exp(entropy) / len(shares),
            "smallest_class_share": float(shares.min()),
            "largest_class_share": float(shares.max()),
        }


@METRICS.register("frechet_distance")
class FrechetDistance(GeneratorMetric):
    """Fréchet distance between generated and real samples in the classifier's features.

    |m - n|^2 + trace(C + D - 2 (C D)^(1/2)) for means m, n and covariances C, D (Dowson and Landau,
    1982); 0 for identical distributions. With features of an Inception network it is the FID of
    Heusel et al. (2017). It falls with the number of samples: compare it for equal numbers only.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> metric = FrechetDistance(DataSpec((4,), 1, TableInputs(())))
        >>> probabilities = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
        >>> fake = JudgeOutputs(probabilities, features=torch.eye(2))
        >>> metric.update(fake, real=JudgeOutputs(probabilities, features=1 + torch.eye(2)))
        >>> round(metric.compute()["frechet_distance"], 3)
        2.0
    """

    scalars: Mapping[str, bool] = {"frechet_distance": False}

    def __init__(self, spec: DataSpec, /) -> None:
        """The metric has no options."""
        self.reset()

    def reset(self) -> None:
        """See `GeneratorMetric`."""
        self._fake, self._real = Moments(), Moments()

    def update(self, fake: JudgeOutputs, real: JudgeOutputs) -> None:
        """See `GeneratorMetric`."""
        self._fake.add(fake.features)
        self._real.add(real.features)

    def compute(self) -> dict[str, float]:
        """Return the distance; NaN for fewer than two samples."""
        return {"frechet_distance": frechet_distance(self._fake, self._real)}


class Moments:
    """Mean and covariance of vectors, from sums in float64."""

    def __init__(self) -> None:
        self.count: int = 0
        self._sum: Tensor | float = 0.0
        self._products: Tensor | float = 0.0

    def add(self, features: Tensor) -> None:
        """Add vectors, (samples, features)."""
        if features.device.type == "mps":
            features = features.cpu()  # an Apple GPU has no float64
        features = features.double()
        self.count += len(features)
        self._sum = self._sum + features.sum(dim=0)
        self._products = self._products + features.T @ features

    @property
    def mean(self) -> Tensor:
        """Mean, (features,) float64."""
        return torch.as_tensor(self._sum) / self.count

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance, (features, features) float64."""
        centred = torch.as_tensor(self._products) - self.count * torch.outer(self.mean, self.mean)
        return centred / (self.count - 1)


def frechet_distance(one: Moments, other: Moments) -> float:
    """Return the distance between normal distributions with these moments.

    It is NaN where the moments are not finite, or for fewer than two samples.
    """
    if min(one.count, other.count) < 2:
        return NAN
    first, second = one.covariance, other.covariance
    if not (first.isfinite().all() and second.isfinite().all()):
        return NAN
    # The trace of (C D)^(1/2) is that of (C^(1/2) D C^(1/2))^(1/2), whose matrix is symmetric.
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    distance = (one.mean - other.mean).square().sum()
    return float(distance + first.trace() + second.trace() - 2 * cross)
