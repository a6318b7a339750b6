"""Losses of classification and regression, each with the function from outputs to predictions.

Each returns one value per sample, so that a batch can be split anywhere: the caller adds and
weights the values. Their weighted mean equals that of `torch.nn.functional`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dltrain.core.data_spec import DataSpec
from dltrain.core.errors import UsageError
from dltrain.core.option_types import PositiveFloat, Probability
from dltrain.core.protocols import Loss
from dltrain.core.registry import LOSSES

ClassWeights = tuple[PositiveFloat, ...] | Literal["balanced"] | None


@LOSSES.register("cross_entropy")
class CrossEntropy(Loss):
    """Cross-entropy of the softmax of (batch, classes) outputs; targets are (batch,) int64.

    Args:
        label_smoothing: Fraction of each target that is spread evenly over all classes.
        class_weights: One weight per class, in the order of the data's classes; balanced weights
            classes inversely to their numbers of training samples.

    Raises:
        UsageError: The data has no classes, or `class_weights` does not match them.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> spec = DataSpec((4,), 3, TableInputs(()), class_names=("cat", "dog", "owl"))
        >>> loss = CrossEntropy(spec, label_smoothing=0.1)
        >>> loss(torch.zeros(5, 3), torch.tensor([0, 1, 2, 0, 1])).shape
        torch.Size([5])
    """

    class_weights: Tensor | None

    def __init__(
        self,
        spec: DataSpec,
        /,
        *,
        label_smoothing: Probability = 0.0,
        class_weights: ClassWeights = None,
    ) -> None:
        """See the class for the options."""
        super().__init__()
        _require_classes(spec, "cross_entropy")
        self.num_outputs: int = spec.num_classes
        self.label_smoothing = label_smoothing
        weights = _class_weights(spec, class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, (batch,), times the weight of its class."""
        outputs = at_least_float32(outputs)
        weights = None if self.class_weights is None else self.class_weights.to(outputs.dtype)
        return F.cross_entropy(
            outputs, targets, weights, reduction="none", label_smoothing=self.label_smoothing
        )

    def weight(self, targets: Tensor) -> Tensor | int:
        """Return the sum of the class weights of the targets, or the number of samples."""
        if self.class_weights is None:
            return len(targets)
        return self.class_weights[targets].sum()

    def predict(self, outputs: Tensor) -> Tensor:
        """Return probabilities, (batch, classes)."""
        return at_least_float32(outputs).softmax(dim=1)


@LOSSES.register("bce")
class BinaryCrossEntropy(Loss):
    """Cross-entropy of the sigmoid of each output; targets are (batch,) int64.

    For two classes, the model has one output, (batch, 1), the logit of the second class. For more,
    it has one output per class, each against the rest, and the loss of a sample is their mean.

    Raises:
        UsageError: The data has no classes.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> spec = DataSpec((4,), 3, TableInputs(()), class_names=("cat", "dog", "owl"))
        >>> loss = BinaryCrossEntropy(spec)
        >>> loss(torch.zeros(5, 3), torch.tensor([0, 1, 2, 0, 1])).shape
        torch.Size([5])
    """

    def __init__(self, spec: DataSpec, /) -> None:
        """Use the number of classes of the data."""
        super().__init__()
        _require_classes(spec, "bce")
        self.num_outputs: int = 1 if spec.num_classes == 2 else spec.num_classes

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, (batch,)."""
        outputs = at_least_float32(outputs)
        # The target of a single output is the class itself, 0 or 1; of several, a one-hot row.
        labels = targets[:, None] if self.num_outputs == 1 else F.one_hot(targets, self.num_outputs)
        losses = F.binary_cross_entropy_with_logits(
            outputs, labels.to(outputs.dtype), reduction="none"
        )
        return losses.mean(dim=1)

    def predict(self, outputs: Tensor) -> Tensor:
        """Return probabilities, (batch, classes); those of more than two need not sum to 1."""
        outputs = at_least_float32(outputs)
        if self.num_outputs == 1:
            outputs = torch.cat([-outputs, outputs], dim=1)
        return outputs.sigmoid()


class RegressionLoss(Loss):
    """The mean over the values of a sample of an elementwise loss; all are (batch, values)."""

    def __init__(
        self, spec: DataSpec, name: str, elementwise: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        """`elementwise` returns the loss of each value."""
        super().__init__()
        if spec.num_classes > 0:
            raise UsageError(
                f"loss {name!r} expected values to predict, and this data has {spec.num_classes} "
                "classes: use 'cross_entropy' or 'bce'"
            )
        self.num_outputs: int = spec.num_outputs
        self.elementwise = elementwise
        self.target_mean: float = spec.target_mean
        self.target_std: float = spec.target_std

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, (batch,), of standardized values."""
        return self.elementwise(at_least_float32(outputs), targets).mean(dim=1)

    def predict(self, outputs: Tensor) -> Tensor:
        """Return values in the units of the data, (batch, values)."""
        return at_least_float32(outputs) * self.target_std + self.target_mean

    def targets(self, targets: Tensor) -> Tensor:
        """Return values in the units of the data, (batch, values)."""
        return self.predict(targets)


@LOSSES.register
def mse(spec: DataSpec, /) -> Loss:
    """Squared error.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> spec = DataSpec((4,), 2, TableInputs(()))
        >>> loss = mse(spec)
        >>> loss(torch.zeros(5, 2), torch.ones(5, 2)).shape
        torch.Size([5])
    """
    return RegressionLoss(spec, "mse", lambda o, t: F.mse_loss(o, t, reduction="none"))


@LOSSES.register
def l1(spec: DataSpec, /) -> Loss:
    """Absolute error.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> spec = DataSpec((4,), 2, TableInputs(()))
        >>> loss = l1(spec)
        >>> loss(torch.zeros(5, 2), torch.ones(5, 2)).shape
        torch.Size([5])
    """
    return RegressionLoss(spec, "l1", lambda o, t: F.l1_loss(o, t, reduction="none"))


@LOSSES.register
def huber(spec: DataSpec, /, *, delta: PositiveFloat = 1.0) -> Loss:
    """Squared error where it is small, absolute error where it is large (Huber, 1964).

    Args:
        delta: Error at which the one becomes the other, in standard deviations of the targets.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> spec = DataSpec((4,), 2, TableInputs(()))
        >>> loss = huber(spec, delta=0.5)
        >>> loss(torch.zeros(5, 2), torch.ones(5, 2)).shape
        torch.Size([5])
    """
    return RegressionLoss(
        spec, "huber", lambda o, t: F.huber_loss(o, t, reduction="none", delta=delta)
    )


def _require_classes(spec: DataSpec, name: str) -> None:
    if spec.num_classes == 0:
        raise UsageError(
            f"loss {name!r} expected classes, and this data has values to predict: "
            "use 'mse', 'l1' or 'huber'"
        )


def _class_weights(spec: DataSpec, choice: ClassWeights) -> Tensor | None:
    """Return weights (classes,) float32; None where all classes have the same weight."""
    if choice is None:
        return None
    if choice == "balanced":
        if len(spec.class_counts) != spec.num_classes or 0 in spec.class_counts:
            raise UsageError(
                "'class_weights: balanced' needs training samples of every class, and the data has "
                f"{list(spec.class_counts)}: give one weight per class instead"
            )
        counts = torch.tensor(spec.class_counts, dtype=torch.float64)
        return (counts.sum() / (spec.num_classes * counts)).float()
    if len(choice) != spec.num_classes:
        raise UsageError(
            f"expected {spec.num_classes} class_weights, got {len(choice)}; "
            f"give one per class, in this order: {', '.join(spec.class_names)}"
        )
    return torch.tensor(choice, dtype=torch.float32)


def at_least_float32(values: Tensor) -> Tensor:
    """Cast half precision to float32, which exponentials and sums need."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
