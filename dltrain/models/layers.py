"""Parts shared by the models: activations, dropout, weight initialization, sample outputs."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.core.data_spec import DataSpec, ImageInputs
from dltrain.core.errors import UsageError

Activation = Literal["sigmoid", "tanh", "relu", "gelu", "silu"]
Init = Literal["default", "xavier", "kaiming", "orthogonal", "zeros"]
HiddenInit = Literal["default", "xavier", "kaiming", "orthogonal"]
"""Initializations of models with hidden layers, whose units would stay equal from zeros."""

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
_MONOTONIC: tuple[Activation, ...] = ("sigmoid", "tanh", "relu")


def activation_layer(name: Activation) -> nn.Module:
    """Return the activation of that name."""
    return _ACTIVATIONS[name]()


def is_monotonic(name: Activation) -> bool:
    """Return whether an activation is monotonic, so that max(f(x)) = f(max(x))."""
    return name in _MONOTONIC


class Dropout(nn.Module):
    """Dropout with fewer random numbers on a CPU, for any shape.

    On a CPU, `nn.Dropout` draws 64 random bits for each element, which can take as long as a layer.
    Here each element uses 16 bits, so the probability is rounded to a multiple of 2**-16, and the
    other elements are scaled by the rounded probability.

    Args:
        p: Probability of an element to be zeroed, below 1.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.dropped: int = min(round(p * 2**16), 2**16 - 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return a tensor of the same shape and dtype."""
        if inputs.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(inputs, self.p, self.training)
        if not self.training or not self.dropped:
            return inputs
        draws = torch.empty((inputs.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: inputs.numel()].view(inputs.shape)
        scale = 1 / (1 - self.dropped / 2**16)
        return inputs * (bits >= self.dropped - 2**15).to(inputs.dtype).mul_(scale)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{self.p}"


class StackedLstm(nn.LSTM):
    """Stacked LSTM layers with `Dropout` between them; batch first.

    On a GPU the dropout of `nn.LSTM` is that of cuDNN, whose random state is not accessible: a
    checkpoint could not save it. Parameters have the names and the initialization of `nn.LSTM`'s.

    Args:
        input_size: Width of the inputs.
        hidden_size: Width of each layer.
        num_layers: Number of layers.
        dropout: Dropout probability between two layers, below 1.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int, dropout: float) -> None:
        super().__init__(input_size, hidden_size, num_layers, batch_first=True)
        self.between: Dropout = Dropout(dropout)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, inputs: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """See `nn.LSTM`.

        Args:
            inputs: (batch, tokens, input_size).
            state: Hidden and cell state, each (layers, batch, hidden_size); zeros if None.

        Returns:
            Outputs, (batch, tokens, hidden_size), and the last states.
        """
        outputs, ends = inputs, []
        for number, weights in enumerate(self._weights_by_layer()):
            outputs = self.between(outputs) if number > 0 else outputs
            if state is None:
                begin = [outputs.new_zeros(1, len(inputs), self.hidden_size)] * 2
            else:
                begin = [part[number : number + 1] for part in state]
            outputs, *end = torch.lstm(
                outputs, begin, weights, True, 1, 0.0, self.training, False, True
            )
            ends.append(end)
        hidden, cell = (torch.cat(parts) for parts in zip(*ends, strict=True))
        return outputs, (hidden, cell)

    def flatten_parameters(self) -> None:
        """Move the weights of each layer into contiguous memory, as cuDNN needs them."""
        for number, weights in enumerate(self._weights_by_layer()):
            if not weights[0].is_cuda:
                continue
            size = self.hidden_size if number else self.input_size
            layer = nn.LSTM(size, self.hidden_size, batch_first=True, device="meta")
            layer._flat_weights = weights
            layer.flatten_parameters()

    def _weights_by_layer(self) -> list[list[Any]]:
        weights = self._flat_weights
        return [weights[start : start + 4] for start in range(0, len(weights), 4)]


def initialize_weights(module: nn.Module, scheme: Init) -> nn.Module:
    """Initialize the weights of linear and convolutional layers, and zero their biases.

    Args:
        module: Changed in place and returned.
        scheme: default keeps PyTorch's weights and biases; xavier is Glorot and Bengio's
            uniform (2010), kaiming He et al.'s normal for ReLU (2015), orthogonal Saxe et al.'s
            (2013).
    """
    if scheme == "default":
        return module
    for layer in module.modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        if scheme == "xavier":
            nn.init.xavier_uniform_(layer.weight)
        elif scheme == "kaiming":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif scheme == "orthogonal":
            nn.init.orthogonal_(layer.weight)
        else:
            nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return module


def require_numbers(spec: DataSpec, name: str) -> None:
    """Raise a UsageError where the data is text, whose token ids a linear layer can't use."""
    if spec.inputs.kind == "text":
        raise UsageError(
            f"model {name!r} expected images or tables, and this data has text: use model "
            "'text_lstm', 'text_cnn' or 'text_transformer'"
        )


class AsSamples(nn.Module):
    """Outputs to samples: images are squashed to [0, 1] and normalized, tables are unchanged."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = spec.input_shape
        self.is_image: bool = isinstance(spec.inputs, ImageInputs)
        if isinstance(spec.inputs, ImageInputs):
            for name in ("mean", "std"):
                value = torch.tensor(getattr(spec.inputs, name))[:, None, None]
                self.register_buffer(name, value, persistent=False)

    def forward(self, outputs: Tensor) -> Tensor:
        """Transform (batch, ...) to (batch, *input_shape)."""
        samples = outputs.unflatten(1, self.shape) if outputs.ndim == 2 else outputs
        return (samples.sigmoid() - self.mean) / self.std if self.is_image else samples
