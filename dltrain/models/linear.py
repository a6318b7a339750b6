"""Linear and logistic regression."""

from __future__ import annotations

from math import prod

from torch import nn

from dltrain.core.data_spec import DataSpec
from dltrain.core.registry import MODELS
from dltrain.models.layers import Init, initialise, require_numbers


@MODELS.register
def linear(spec: DataSpec, /, *, bias: bool = True, init: Init = "default") -> nn.Module:
    """One linear layer: (batch, *input_shape) -> (batch, num_outputs).

    With loss cross_entropy or bce it is logistic regression, with mse linear regression.

    Args:
        bias: Add a learned constant to each output.
        init: How the weights begin; the problem is convex for the usual losses, so zeros will do.

    Raises:
        UsageError: The data is text.
    """
    require_numbers(spec, "linear")
    layer = nn.Linear(prod(spec.input_shape), spec.num_outputs, bias=bias)
    return initialise(nn.Sequential(nn.Flatten(), layer), init)
