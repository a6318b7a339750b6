"""Adapters from loss modules of torch, and functions, to `Loss`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.core.data_spec import DataSpec
from dltrain.core.errors import UsageError
from dltrain.core.protocols import Loss
from dltrain.losses.supervised import at_least_float32

_CLASSIFICATION = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
_REGRESSION = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)


def as_loss(built: Any, spec: DataSpec) -> Loss | None:
    """Return a loss module of torch, or a function, as a `Loss`; None if it is neither.

    Args:
        built: A module or a function of outputs and targets that returns one loss per sample, or
            does so with `reduction="none"`.
        spec: The spec of the data.

    Raises:
        UsageError: The loss does not match the data, or its use is unknown to dltrain.
    """
    if not callable(built):
        return None
    if isinstance(built, nn.Module):
        if any(parameter.requires_grad for parameter in built.parameters()):
            raise UsageError("a loss with trainable parameters is not trained; move them to a task")
        if getattr(built, "reduction", "none") not in ("none", "mean"):
            raise UsageError(
                f"reduction is {built.reduction!r}, which depends on the batch size; use 'mean'"
            )
    if isinstance(built, nn.BCEWithLogitsLoss):
        _require_unstandardized(built, spec)
        return _LogitLoss(built, spec)
    if isinstance(built, (*_CLASSIFICATION, *_REGRESSION)):
        if isinstance(built, _CLASSIFICATION) != bool(spec.num_classes):
            data = f"{spec.num_classes} classes" if spec.num_classes else "values to predict"
            raise UsageError(f"{type(built).__name__} does not match this data, which has {data}")
    elif type(built).__module__ == nn.MSELoss.__module__:
        raise UsageError(
            f"how outputs become predictions is unknown for {type(built).__name__}; "
            "subclass dltrain.Loss and call it in forward"
        )
    return TorchLoss(built, spec)


class TorchLoss(Loss):
    """A loss function of torch, without its reduction over the batch.

    With classes, the model has one output per class, targets are (batch,) int64 and predictions are
    the softmax of the outputs; for `NLLLoss`, whose outputs are log-probabilities, they are the
    exponentials. Otherwise outputs, targets and predictions are (batch, values).

    Args:
        function: Outputs and targets to the loss of each sample, (batch,). A function or module
            with a `reduction` is used with "none". Losses of the values of a sample are averaged.
        spec: The spec of the data.
    """

    def __init__(self, function: Callable[..., Any], spec: DataSpec) -> None:
        super().__init__()
        self.num_outputs: int = spec.num_classes or spec.num_outputs
        self.num_classes: int = spec.num_classes
        self.target_mean: float = spec.target_mean
        self.target_std: float = spec.target_std
        if not isinstance(function, nn.Module):
            function = _unreduced(function)
        elif hasattr(function, "reduction"):
            function = deepcopy(function)
            function.__dict__["reduction"] = "none"
        self.function = function

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, (batch,)."""
        losses = self.function(at_least_float32(outputs), targets)
        if self.num_classes == 0 and isinstance(losses, Tensor) and losses.ndim > 1:
            return losses.flatten(1).mean(dim=1)
        return losses

    def weight(self, targets: Tensor) -> Tensor | int:
        """Return the sum of the weights by which torch's mean over a batch divides."""
        if not isinstance(self.function, nn.CrossEntropyLoss | nn.NLLLoss):
            return len(targets)
        weights, ignored = self.function.weight, self.function.ignore_index
        if weights is None and ignored < 0:
            return len(targets)
        counted = torch.ones_like(targets) if weights is None else weights[targets]
        return (counted * (targets != ignored)).sum()

    def predict(self, outputs: Tensor) -> Tensor:
        """Return probabilities (batch, classes), or values (batch, values) in their own units."""
        outputs = at_least_float32(outputs)
        if isinstance(self.function, nn.NLLLoss):
            return outputs.exp()
        if self.num_classes:
            return outputs.softmax(dim=1)
        return outputs * self.target_std + self.target_mean

    def targets(self, targets: Tensor) -> Tensor:
        """Return classes, (batch,), or values (batch, values) in their own units."""
        return targets if self.num_classes else targets * self.target_std + self.target_mean


class _LogitLoss(TorchLoss):
    """`BCEWithLogitsLoss` for two classes (one output), more classes, or independent labels."""

    def __init__(self, function: nn.Module, spec: DataSpec) -> None:
        super().__init__(function, spec)
        if spec.num_classes == 2:
            self.num_outputs = 1

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, (batch,), the mean over its outputs."""
        outputs = at_least_float32(outputs)
        if self.num_classes == 2:
            targets = targets[:, None]
        elif self.num_classes:
            targets = F.one_hot(targets, self.num_classes)
        return self.function(outputs, targets.to(outputs.dtype)).mean(dim=1)

    def predict(self, outputs: Tensor) -> Tensor:
        """Return probabilities, (batch, classes) or (batch, labels)."""
        outputs = at_least_float32(outputs)
        if self.num_classes == 2:
            outputs = torch.cat([-outputs, outputs], dim=1)
        return outputs.sigmoid()


def _unreduced(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # implemented in C
        return function
    return partial(function, reduction="none") if "reduction" in parameters else function


def _require_unstandardized(loss: nn.Module, spec: DataSpec) -> None:
    if (spec.target_mean, spec.target_std) != (0.0, 1.0):
        name = type(loss).__name__
        raise UsageError(f"{name} expected targets from 0 to 1, got standardized ones")
