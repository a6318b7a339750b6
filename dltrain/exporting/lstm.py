"""LSTM layers that can be exported for texts of any length.

PyTorch's exporter unrolls `nn.LSTM` to the length of its example. These modules compute the same
with a loop operator of PyTorch and with the LSTM operator of ONNX.
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
    """Replace each LSTM of a model by `LoopedLstm` or `OnnxLstm` inside this context.

    Raises:
        UsageError: An LSTM has an option that is not supported.
    """
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.LSTM)}
    for name, layer in found.items():
        if layer.bidirectional or layer.proj_size or not layer.batch_first or not layer.bias:
            raise UsageError(
                f"layer {name!r} can't be exported: expected an nn.LSTM with batch_first and bias, "
                "without bidirectional and proj_size"
            )
    with replace_modules(model, {name: form(layer) for name, layer in found.items()}):
        yield


class _Replacement(nn.Module):
    """A stack of LSTM layers with zero initial states."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.hidden_size: int = lstm.hidden_size
        self.weights: nn.ParameterList = nn.ParameterList()
        for number in range(lstm.num_layers):
            self.weights.extend(self.rearranged(*lstm.all_weights[number]))

    def rearranged(self, *weights: Tensor) -> Iterator[Tensor]:
        """Yield the weights of inputs and of the state and both biases, as `layer` expects them."""
        yield from weights

    def forward(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Map (batch, tokens, features) to (batch, tokens, hidden_size) and the final states."""
        assert state is None
        outputs, states = inputs.transpose(0, 1), []
        for start in range(0, len(self.weights), 4):
            weights = [self.weights[number] for number in range(start, start + 4)]
            outputs, *final = self.layer(outputs, *weights)
            states.append(final)
        hidden, cell = (torch.stack(parts) for parts in zip(*states, strict=True))
        return outputs.transpose(0, 1), (hidden, cell)

    def layer(self, inputs: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (tokens, batch, features) to (tokens, batch, hidden_size) and the final states."""
        raise NotImplementedError


class LoopedLstm(_Replacement):
    """An LSTM as a loop over the tokens that PyTorch's exporter keeps as a loop."""

    def layer(self, inputs: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `_Replacement`."""
        from torch._higher_order_ops import scan

        input_weight, hidden_weight, bias, hidden_bias = weights
        gates = F.linear(inputs, input_weight, bias + hidden_bias)

        def step(state: State, gates: Tensor) -> tuple[State, Tensor]:
            hidden, cell = state
            enter, forget, new, leave = (gates + F.linear(hidden, hidden_weight)).chunk(4, dim=1)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            hidden = leave.sigmoid() * cell.tanh()
            return (hidden, cell), hidden.clone()

        zeros = inputs.new_zeros(inputs.shape[1], self.hidden_size)
        (hidden, cell), outputs = scan(step, (zeros, zeros.clone()), gates)
        return outputs, hidden, cell


class OnnxLstm(_Replacement):
    """An LSTM as the fast operator of ONNX, which PyTorch can export but not run."""

    def rearranged(self, *weights: Tensor) -> Iterator[Tensor]:
        """Yield the weights with gates in the order of ONNX and a dimension of directions."""
        for weight in weights:
            enter, forget, new, leave = weight.detach().chunk(4)
            yield nn.Parameter(torch.cat([enter, leave, forget, new])[None], requires_grad=False)

    def layer(self, inputs: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `_Replacement`."""
        input_weight, hidden_weight, *biases = weights
        tokens, batch = inputs.shape[:2]
        state = (1, batch, self.hidden_size)
        outputs, hidden, cell = torch.onnx.ops.symbolic_multi_out(
            "LSTM",
            (inputs, input_weight, hidden_weight, torch.cat(biases, dim=1)),
            attrs={"hidden_size": self.hidden_size},
            dtypes=(inputs.dtype,) * 3,
            shapes=((tokens, *state), state, state),
        )
        return outputs.squeeze(1), hidden.squeeze(0), cell.squeeze(0)
