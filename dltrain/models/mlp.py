"""Multi-layer perceptron."""

from __future__ import annotations

from math import prod

from torch import nn

from dltrain.core.data_spec import DataSpec
from dltrain.core.option_types import PositiveInt, Probability
from dltrain.core.registry import MODELS
from dltrain.models.layers import (
    Activation,
    Dropout,
    HiddenInit,
    activation_layer,
    initialize_weights,
    require_numbers,
)


@MODELS.register
def mlp(
    spec: DataSpec,
    /,
    *,
    hidden: tuple[PositiveInt, ...] = (128,),
    activation: Activation = "relu",
    dropout: Probability = 0.0,
    batch_norm: bool = False,
    init: HiddenInit = "default",
) -> nn.Module:
    """Multi-layer perceptron: (batch, *input_shape) -> (batch, num_outputs).

    Args:
        hidden: Widths of the hidden layers.
        activation: Nonlinearity after each hidden layer.
        dropout: Dropout probability after each hidden layer.
        batch_norm: Apply batch normalization before each activation.
        init: Weight initialization.

    Example:
        >>> import torch
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> spec = DataSpec((4,), 3, TableInputs(()))
        >>> mlp(spec, hidden=(64, 32))(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """
    layers: list[nn.Module] = [nn.Flatten()]
    require_numbers(spec, "mlp")
    width = prod(spec.input_shape)
    for next_width in hidden:
        # Batch normalization subtracts the mean, which cancels a bias.
        layers.append(nn.Linear(width, next_width, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm1d(next_width))
        layers += [activation_layer(activation), Dropout(dropout)]
        width = next_width
    layers.append(nn.Linear(width, spec.num_outputs))
    return initialize_weights(nn.Sequential(*layers), init)
