"""LSTM layers in forms that a file can hold for texts of any length.

PyTorch's exporter writes `nn.LSTM` out step by step, for the length of its example. These forms
compute the same: as a loop of PyTorch's, and as the LSTM operator of ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.core.errors import UsageError
from dltrain.exporting.module_replacement import replace_modules

State = tuple[Tensor, Tensor]
"""Hidden and cell state, each (layers, batch, hidden_size)."""


@contextmanager
def replaced_lstms(model: nn.Module, form: Callable[[nn.LSTM], nn.Module]) -> Iterator[None]:
    """Puts `LoopedLstm` or `OnnxLstm` in the place of each LSTM inside a model, for a while.

    Raises:
        UsageError: An LSTM has an option that these forms lack.
    """
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.LSTM)}
    for name, layer in found.items():
        if layer.bidirectional or layer.proj_size or not layer.batch_first or not layer.bias:
            raise UsageError(
                f"layer {name!r} can't be exported: an nn.LSTM must be batch_first, have biases, "
                "read in one direction and project nothing"
            )
    with replace_modules(model, {name: form(layer) for name, layer in found.items()}):
        yield


class _Replacement(nn.Module):
    """Layers of an LSTM one on another, from the state zero."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.hidden_size: int = lstm.hidden_size
        self.weights: nn.ParameterList = nn.ParameterList()
        for number in range(lstm.num_layers):
            self.weights.extend(self.arranged(*lstm.all_weights[number]))

    def arranged(self, *weights: Tensor) -> Iterator[Tensor]:
        """Weights of inputs and of the state, and both biases, as a form wants them."""
        yield from weights

    def forward(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(batch, tokens, features) to (batch, tokens, hidden_size), and the last states."""
        assert state is None
        outputs, ends = inputs.transpose(0, 1), []
        for start in range(0, len(self.weights), 4):
            weights = [self.weights[number] for number in range(start, start + 4)]
            outputs, *end = self.layer(outputs, *weights)
            ends.append(end)
        hidden, cell = (torch.stack(parts) for parts in zip(*ends, strict=True))
        return outputs.transpose(0, 1), (hidden, cell)

    def layer(self, inputs: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(tokens, batch, features) to (tokens, batch, hidden_size), and the last states."""
        raise NotImplementedError


class LoopedLstm(_Replacement):
    """As a loop over the tokens that PyTorch's exporter keeps as one."""

    def layer(self, inputs: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `_Replacement`."""
        from torch._higher_order_ops import scan

        of_inputs, of_hidden, bias, hidden_bias = weights
        gates = F.linear(inputs, of_inputs, bias + hidden_bias)

        def step(state: State, gates: Tensor) -> tuple[State, Tensor]:
            hidden, cell = state
            enter, forget, new, leave = (gates + F.linear(hidden, of_hidden)).chunk(4, dim=1)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            hidden = leave.sigmoid() * cell.tanh()
            return (hidden, cell), hidden.clone()

        zeros = inputs.new_zeros(inputs.shape[1], self.hidden_size)
        (hidden, cell), outputs = scan(step, (zeros, zeros.clone()), gates)
        return outputs, hidden, cell


class OnnxLstm(_Replacement):
    """As ONNX's operator, which runtimes have a fast form of; it can't be computed here."""

    def arranged(self, *weights: Tensor) -> Iterator[Tensor]:
        """ONNX wants the gates as input, output, forget, cell, and a dimension of directions."""
        for weight in weights:
            enter, forget, new, leave = weight.detach().chunk(4)
            yield nn.Parameter(torch.cat([enter, leave, forget, new])[None], requires_grad=False)

    def layer(self, inputs: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `_Replacement`."""
        of_inputs, of_hidden, *biases = weights
        tokens, batch = inputs.shape[:2]
        state = (1, batch, self.hidden_size)
        outputs, hidden, cell = torch.onnx.ops.symbolic_multi_out(
            "LSTM",
            (inputs, of_inputs, of_hidden, torch.cat(biases, dim=1)),
            attrs={"hidden_size": self.hidden_size},
            dtypes=(inputs.dtype,) * 3,
            shapes=((tokens, *state), state, state),
        )
        return outputs.squeeze(1), hidden.squeeze(0), cell.squeeze(0)
