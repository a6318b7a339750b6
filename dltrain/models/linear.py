"""Linear and logistic regression."""

from __future__ import annotations

from math import prod

from torch import nn

from dltrain.core.data_spec import DataSpec
from dltrain.core.registry import MODELS
from dltrain.models.layers import Init, initialize_weights, require_numbers


@MODELS.register
def linear(spec: DataSpec, /, *, bias: bool = True, init: Init = "default") -> nn.Module:
    """One linear layer: (batch, *input_shape) -> (batch, num_outputs).

    This is logistic regression with loss cross_entropy or bce, linear regression with mse.

    Args:
        bias: Add a learned constant to each output.
        init: Weight initialization; zeros works too, because the usual losses are convex here.

    Raises:
        UsageError: The data is text.

    Example:
        >>> import torch
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> spec = DataSpec((4,), 3, TableInputs(()))
        >>> linear(spec)(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """
    require_numbers(spec, "linear")
    layer = nn.Linear(prod(spec.input_shape), spec.num_outputs, bias=bias)
    return initialize_weights(nn.Sequential(nn.Flatten(), layer), init)
