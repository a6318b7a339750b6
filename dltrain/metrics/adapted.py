"""Adapters from metrics of torchmetrics, and functions, to `Metric`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dltrain.core.errors import UsageError
from dltrain.core.protocols import Metric
from dltrain.metrics.ratio import NAN


def as_metric(built: Any, name: str) -> Metric | None:
    """Return an object with reset, update and compute, or a function, as a `Metric`.

    Args:
        built: What a user's builder returned.
        name: Name of the scalar.

    Returns:
        None if it is neither.
    """
    if all(callable(getattr(built, method, None)) for method in ("reset", "update", "compute")):
        return ObjectMetric(name, built)
    return FunctionMetric(name, built) if callable(built) else None


class FunctionMetric:
    """A function of all predictions and targets of an evaluation, kept until its end.

    Args:
        name: Name of the scalar. The function's attribute `higher_is_better` gives the direction;
            without it the scalar can't select a checkpoint.
        function: Predictions, (samples, classes) or (samples, values), and targets, (samples,)
            int64 or (samples, values), all on the CPU, to a number.
    """

    def __init__(self, name: str, function: Callable[[Tensor, Tensor], Any]) -> None:
        self.name = name
        self.function = function
        self.scalars: Mapping[str, bool | None] = {name: _direction(function)}
        self.reset()

    def reset(self) -> None:
        """Reset the metric."""
        self._predictions: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Keep a batch."""
        self._predictions.append(predictions)
        self._targets.append(targets)

    def compute(self) -> dict[str, float]:
        """Call the function; NaN without samples."""
        if not self._targets:
            return {self.name: NAN}
        columns = (torch.cat(parts).cpu() for parts in (self._predictions, self._targets))
        return {self.name: _number(self.name, self.function(*columns))}


class ObjectMetric:
    """A metric of torchmetrics, or an object with its methods reset, update and compute.

    It receives probabilities (batch, classes) and classes (batch,); single values are (batch,). A
    class whose name begins with Binary receives the probability of the second class, (batch,).

    Args:
        name: Name of the scalar. The metric's attribute `higher_is_better` gives the direction;
            without it the scalar can't select a checkpoint.
        metric: An object whose `compute` returns a number.
    """

    def __init__(self, name: str, metric: Any) -> None:
        self.name = name
        self.metric = metric
        self.scalars: Mapping[str, bool | None] = {name: _direction(metric)}
        self._is_binary = type(metric).__name__.startswith("Binary")
        if hasattr(metric, "sync_on_compute"):  # each rank receives all samples
            metric.sync_on_compute = False
        self._is_empty = True

    def reset(self) -> None:
        """Reset the metric."""
        self.metric.reset()
        self._is_empty = True

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        if self._is_empty and hasattr(self.metric, "to"):
            self.metric.to(targets.device)
        if self._is_binary and predictions.shape[1:] == (2,):
            predictions = predictions[:, 1]
        if predictions.shape[1:] == (1,):
            predictions, targets = predictions.flatten(), targets.flatten()
        self.metric.update(predictions, targets)
        self._is_empty = False

    def compute(self) -> dict[str, float]:
        """Return the metric's number; NaN without samples."""
        value = NAN if self._is_empty else self.metric.compute()
        return {self.name: _number(self.name, value)}


def _direction(metric: Any) -> bool | None:
    """Return whether higher is better; None where that is unknown."""
    higher = getattr(metric, "higher_is_better", None)
    return None if higher is None else bool(higher)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        shown = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UsageError(f"metric {name!r} must return one number, got {shown}") from None
