"""Metrics of regression."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dltrain.core.data_spec import DataSpec
from dltrain.core.errors import UsageError
from dltrain.core.protocols import Metric
from dltrain.core.registry import METRICS
from dltrain.metrics.ratio import NAN, ratio, widest_float


class _MeanError:
    """The mean over samples and values of a function of prediction and target."""

    def __init__(
        self, spec: DataSpec, name: str, error: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        _require_values(spec, name)
        self.name = name
        self.error = error
        self.scalars: Mapping[str, bool] = {name: False}
        self.reset()

    def reset(self) -> None:
        """Reset all sums."""
        self._sum: Tensor | None = None
        self._num_values = 0

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch; both are (batch, values)."""
        total = self.error(_widest(predictions), _widest(targets)).sum()
        self._sum = total if self._sum is None else self._sum + total
        self._num_values += targets.numel()

    def compute(self) -> dict[str, float]:
        """Return the mean error; NaN without samples."""
        total = 0.0 if self._sum is None else float(self._sum)
        return {self.name: ratio(total, self._num_values)}


@METRICS.register
def mse(spec: DataSpec, /) -> Metric:
    """Mean squared error, in squared units of the data.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> metric = mse(DataSpec((4,), 1, TableInputs(())))
        >>> metric.update(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]]))
        >>> metric.compute()
        {'mse': 2.0}
    """
    return _MeanError(spec, "mse", lambda p, t: (p - t).square())


@METRICS.register
def mae(spec: DataSpec, /) -> Metric:
    """Mean absolute error, in units of the data.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> metric = mae(DataSpec((4,), 1, TableInputs(())))
        >>> metric.update(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]]))
        >>> metric.compute()
        {'mae': 1.0}
    """
    return _MeanError(spec, "mae", lambda p, t: (p - t).abs())


@METRICS.register("r2")
class R2:
    """Coefficient of determination, averaged over values: 1 is perfect, 0 as good as the mean.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> metric = R2(DataSpec((4,), 1, TableInputs(())))
        >>> metric.update(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [3.0]]))
        >>> metric.compute()
        {'r2': 0.5}
    """

    scalars: Mapping[str, bool] = {"r2": True}

    def __init__(self, spec: DataSpec, /) -> None:
        """Raise a UsageError where the data has classes."""
        _require_values(spec, "r2")
        self.reset()

    def reset(self) -> None:
        """Reset all sums."""
        self._origin: Tensor | None = None
        self._sums: Tensor | None = None
        self._num_samples = 0

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch; both are (batch, values)."""
        predictions, targets = _widest(predictions), _widest(targets)
        # A difference of sums of squares loses precision far from zero: subtract a target first.
        if self._origin is None:
            self._origin = targets[0].clone()
        offsets = targets - self._origin
        terms = (predictions - targets).square(), offsets, offsets.square()
        sums = torch.stack([term.sum(dim=0) for term in terms])
        self._sums = sums if self._sums is None else self._sums + sums
        self._num_samples += len(targets)

    def compute(self) -> dict[str, float]:
        """Return the coefficient; NaN where the targets do not vary."""
        if self._sums is None:
            return {"r2": NAN}
        residual, offsets, squares = self._sums.cpu().double()
        total = squares - offsets.square() / self._num_samples
        return {"r2": float((1 - residual / total).mean()) if (total > 0).all() else NAN}


def _require_values(spec: DataSpec, name: str) -> None:
    if spec.num_classes > 0:
        raise UsageError(
            f"metric {name!r} expected values to predict, and this data has {spec.num_classes} "
            "classes: use 'accuracy' or 'f1'"
        )


def _widest(values: Tensor) -> Tensor:
    return values.to(widest_float(values.device))
