"""How good made samples are, as a classifier that knows the real ones sees them."""

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
class Judged:
    """What a classifier says of samples.

    Attributes:
        probabilities: (samples, classes).
        features: (samples, features), the input of its last layer.
    """

    probabilities: Tensor
    features: Tensor


class GeneratorMetric(ABC):
    """Sums over samples, kept on the device; the value does not depend on how they were batched.

    Attributes:
        scalars: The name of each scalar that `compute` gives, and whether higher is better.
    """

    scalars: Mapping[str, bool]

    @abstractmethod
    def reset(self) -> None:
        """Forgets every sample."""

    @abstractmethod
    def update(self, fake: Judged, real: Judged) -> None:
        """Adds as many fake samples as real ones."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The scalars over all samples since `reset`; NaN where they are undefined."""


@METRICS.register("classifier_confidence")
class ClassifierConfidence(GeneratorMetric):
    """Mean probability of the class that the judge finds most probable in a made sample."""

    scalars: Mapping[str, bool] = {"classifier_confidence": True}

    def __init__(self, spec: DataSpec, /) -> None:
        """Has no options."""
        self.reset()

    def reset(self) -> None:
        """See `GeneratorMetric`."""
        self._total: Tensor | float = 0.0
        self._count = 0

    def update(self, fake: Judged, real: Judged) -> None:
        """See `GeneratorMetric`."""
        self._total = self._total + fake.probabilities.max(dim=1).values.sum()
        self._count += len(fake.probabilities)

    def compute(self) -> dict[str, float]:
        """The mean."""
        mean = float(self._total) / self._count if self._count else NAN
        return {"classifier_confidence": mean}


@METRICS.register("class_coverage")
class ClassCoverage(GeneratorMetric):
    """How evenly the judge finds its classes among made samples, 1 if all are equally frequent.

    `class_coverage` is the exponential of the entropy of the classes' shares, divided by their
    number: with k of n classes equally frequent and none of the others it is k / n.
    `smallest_class_share` and `largest_class_share` are those of the rarest and of the most
    frequent class.
    """

    scalars: Mapping[str, bool] = {
        "class_coverage": True,
        "smallest_class_share": True,
        "largest_class_share": False,
    }

    def __init__(self, spec: DataSpec, /) -> None:
        """Has no options."""
        self.reset()

    def reset(self) -> None:
        """See `GeneratorMetric`."""
        self._counts: Tensor | int = 0

    def update(self, fake: Judged, real: Judged) -> None:
        """See `GeneratorMetric`."""
        num_classes = fake.probabilities.shape[1]
        classes = predicted_classes(fake.probabilities)
        # The last count is of the samples that have a NaN probability.
        counts = torch.zeros(num_classes + 1, dtype=torch.int64, device=classes.device)
        classes = classes.masked_fill(classes < 0, num_classes)
        self._counts = self._counts + counts.index_add(0, classes, torch.ones_like(classes))

    def compute(self) -> dict[str, float]:
        """Coverage, smallest and largest share; NaN without samples or with a NaN probability."""
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
    """Fréchet distance between made and real samples in the judge's features, 0 if they are alike.

    |m - n|^2 + trace(C + D - 2 (C D)^(1/2)) for means m, n and covariances C, D (Dowson and Landau,
    1982). Heusel et al. (2017) call it FID where an Inception network gives the features. It falls
    with the number of samples: compare distances of equally many only.
    """

    scalars: Mapping[str, bool] = {"frechet_distance": False}

    def __init__(self, spec: DataSpec, /) -> None:
        """Has no options."""
        self.reset()

    def reset(self) -> None:
        """See `GeneratorMetric`."""
        self._fake, self._real = Moments(), Moments()

    def update(self, fake: Judged, real: Judged) -> None:
        """See `GeneratorMetric`."""
        self._fake.add(fake.features)
        self._real.add(real.features)

    def compute(self) -> dict[str, float]:
        """The distance; NaN for fewer than two samples."""
        return {"frechet_distance": frechet_distance(self._fake, self._real)}


class Moments:
    """Mean and covariance of vectors, from their sums in float64."""

    def __init__(self) -> None:
        self.count: int = 0
        self._sum: Tensor | float = 0.0
        self._products: Tensor | float = 0.0

    def add(self, features: Tensor) -> None:
        """Adds vectors, (samples, features)."""
        if features.device.type == "mps":
            features = features.cpu()  # an Apple GPU has no float64
        features = features.double()
        self.count += len(features)
        self._sum = self._sum + features.sum(dim=0)
        self._products = self._products + features.T @ features

    @property
    def mean(self) -> Tensor:
        """(features,) float64."""
        return torch.as_tensor(self._sum) / self.count

    @property
    def covariance(self) -> Tensor:
        """(features, features) float64, with one degree of freedom less than samples."""
        centred = torch.as_tensor(self._products) - self.count * torch.outer(self.mean, self.mean)
        return centred / (self.count - 1)


def frechet_distance(one: Moments, other: Moments) -> float:
    """Between the normal distributions of these moments; NaN where they are not finite.

    NaN for fewer than two samples as well.
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
