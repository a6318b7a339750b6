"""Components with faults that `check` must detect."""

from __future__ import annotations

import torch
from torch import nn

from dltrain import DATA, MODELS, DataSpec
from dltrain.core.protocols import DataContext
from dltrain.data.toy import toy_spirals


class Faulty(nn.Module):
    def __init__(self, spec: DataSpec, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.first = nn.Linear(spec.input_shape[0], 16)
        self.last = nn.Linear(16, spec.num_outputs)
        if fault == "dead":
            self.first.bias.data.fill_(-1e6)
        if fault == "large":
            self.last.weight.data.mul_(1000)
        if fault == "unused":
            self.extra = nn.Linear(3, 3)
        if fault == "frozen":
            self.requires_grad_(False)
            self.last.bias.requires_grad_(True)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.last(self.first(inputs).relu())
        if self.fault == "softmax":
            return outputs.softmax(1)
        return outputs.sigmoid() if self.fault == "sigmoid" else outputs

    def state_dict(self, *args, **kwargs):
        state = super().state_dict(*args, **kwargs)
        if self.fault == "forgetful":
            state = {name: tensor.half().float() for name, tensor in state.items()}
        return state


@MODELS.register
def faulty(spec: DataSpec, /, *, fault: str = "none") -> nn.Module:
    """Build a network with a fault."""
    return Faulty(spec, fault)


@DATA.register
def mislabelled(context: DataContext, /, *, label: int = 7):
    """Build spirals with a label outside the classes."""
    data = toy_spirals(context)
    data.train.targets[5] = label
    return data
