"""Losses, each with the function that turns outputs into predictions.

Each gives one number a sample, so that sums and weights are the caller's and a batch can be cut
anywhere; their weighted mean equals that of `torch.nn.functional`.
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
        label_smoothing: Share of each target spread evenly over all classes.
        class_weights: One weight a class, in the data's order; balanced weighs every class's
            training samples alike, however many there are.

    Raises:
        UsageError: The data has no classes, or `class_weights` does not fit them.
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
        """Takes the options that the class describes."""
        super().__init__()
        _require_classes(spec, "cross_entropy")
        self.num_outputs: int = spec.num_classes
        self.label_smoothing = label_smoothing
        weights = _class_weights(spec, class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each sample, (batch,), times the weight of its class."""
        outputs = at_least_float32(outputs)
        weights = None if self.class_weights is None else self.class_weights.to(outputs.dtype)
        return F.cross_entropy(
            outputs, targets, weights, reduction="none", label_smoothing=self.label_smoothing
        )

    def weight(self, targets: Tensor) -> Tensor | int:
        """The sum of the weights of the targets' classes; without class weights, the samples."""
        if self.class_weights is None:
            return len(targets)
        return self.class_weights[targets].sum()

    def predict(self, outputs: Tensor) -> Tensor:
        """Probabilities, (batch, classes)."""
        return at_least_float32(outputs).softmax(dim=1)


@LOSSES.register("bce")
class BinaryCrossEntropy(Loss):
    """Cross-entropy of the sigmoid of each output; targets are (batch,) int64.

    Two classes have one output, (batch, 1), the logit of the second. More have one a class, each
    against the rest, and a sample's loss is the mean over them.

    Raises:
        UsageError: The data has no classes.
    """

    def __init__(self, spec: DataSpec, /) -> None:
        """Takes the number of classes from the data."""
        super().__init__()
        _require_classes(spec, "bce")
        self.num_outputs: int = 1 if spec.num_classes == 2 else spec.num_classes

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each sample, (batch,)."""
        outputs = at_least_float32(outputs)
        # A single output is compared with the class itself, 0 or 1; several with its one-hot row.
        wanted = targets[:, None] if self.num_outputs == 1 else F.one_hot(targets, self.num_outputs)
        losses = F.binary_cross_entropy_with_logits(
            outputs, wanted.to(outputs.dtype), reduction="none"
        )
        return losses.mean(dim=1)

    def predict(self, outputs: Tensor) -> Tensor:
        """Probabilities, (batch, classes); with more than two classes they need not sum to 1."""
        outputs = at_least_float32(outputs)
        if self.num_outputs == 1:
            outputs = torch.cat([-outputs, outputs], dim=1)
        return outputs.sigmoid()


class RegressionLoss(Loss):
    """The mean over a sample's values of a function of output and target, both (batch, values)."""

    def __init__(
        self, spec: DataSpec, name: str, elementwise: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        """`elementwise` gives the loss of each value."""
        super().__init__()
        if spec.num_classes > 0:
            raise UsageError(
                f"loss {name!r} is for values, and this data has {spec.num_classes} classes: "
                "use 'cross_entropy' or 'bce'"
            )
        self.num_outputs: int = spec.num_outputs
        self.elementwise = elementwise
        self.target_mean: float = spec.target_mean
        self.target_std: float = spec.target_std

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each sample, (batch,), on the standardised scale."""
        return self.elementwise(at_least_float32(outputs), targets).mean(dim=1)

    def predict(self, outputs: Tensor) -> Tensor:
        """Values in the data's own units, (batch, values)."""
        return at_least_float32(outputs) * self.target_std + self.target_mean

    def targets(self, targets: Tensor) -> Tensor:
        """Values in the data's own units, (batch, values)."""
        return self.predict(targets)


@LOSSES.register
def mse(spec: DataSpec, /) -> Loss:
    """Squared error."""
    return RegressionLoss(spec, "mse", lambda o, t: F.mse_loss(o, t, reduction="none"))


@LOSSES.register
def l1(spec: DataSpec, /) -> Loss:
    """Absolute error."""
    return RegressionLoss(spec, "l1", lambda o, t: F.l1_loss(o, t, reduction="none"))


@LOSSES.register
def huber(spec: DataSpec, /, *, delta: PositiveFloat = 1.0) -> Loss:
    """Squared error where it is small, absolute error where it is large (Huber, 1964).

    Args:
        delta: Where the one becomes the other, in standard deviations of the targets.
    """
    return RegressionLoss(
        spec, "huber", lambda o, t: F.huber_loss(o, t, reduction="none", delta=delta)
    )


def _require_classes(spec: DataSpec, name: str) -> None:
    if spec.num_classes == 0:
        raise UsageError(
            f"loss {name!r} is for classes, and this data has values to predict: "
            "use 'mse', 'l1' or 'huber'"
        )


def _class_weights(spec: DataSpec, choice: ClassWeights) -> Tensor | None:
    """Weights (classes,) float32; None where every class counts alike."""
    if choice is None:
        return None
    if choice == "balanced":
        if len(spec.class_counts) != spec.num_classes or 0 in spec.class_counts:
            raise UsageError(
                "'class_weights: balanced' needs training samples of every class, and the data "
                f"counts {list(spec.class_counts)}: give one weight a class instead"
            )
        counts = torch.tensor(spec.class_counts, dtype=torch.float64)
        return (counts.sum() / (spec.num_classes * counts)).float()
    if len(choice) != spec.num_classes:
        raise UsageError(
            f"{len(choice)} class_weights for {spec.num_classes} classes; "
            f"give one each, in this order: {', '.join(spec.class_names)}"
        )
    return torch.tensor(choice, dtype=torch.float32)


def at_least_float32(values: Tensor) -> Tensor:
    """Half-precision outputs of autocast lack the digits for exponentials and sums."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
