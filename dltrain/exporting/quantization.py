"""Linear layers with weights in eight bits: made by torchao, and used without it.

Each row of a weight, (outputs, inputs), becomes whole numbers from -128 to 127 and one scale. What
goes through the layers stays in float32: eight bits there would want a product of integers that
ONNX's exporter lacks, and that gives other results on CPUs which saturate.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.core.errors import UsageError
from dltrain.exporting.description import listed

Method = Literal["int8"]

QUIET = {
    "torch.utils._pytree": "<enum 'KernelPreference'> is an Enum subclass",
    "torchao": "Skipping import of cpp extensions",
}
"""Loggers, and how what they say of each import of torchao begins; nothing here depends on it."""


@dataclass(frozen=True)
class Quantized:
    """What of a model is kept in eight bits.

    Attributes:
        method: How.
        layers: Names and kinds of the layers whose weights are; their biases are in float.
        float_layers: Those of the others that have weights.
        share: Of all weights.
    """

    method: Method
    layers: dict[str, str]
    float_layers: dict[str, str]
    share: float

    def told(self) -> str:
        """In a line."""
        total = len(self.layers) + len(self.float_layers)
        text = (
            f"{len(self.layers)} of {total} layers with weights, {self.share:.1%} of the weights: "
            f"{_names(self.layers)}"
        )
        return text + (f"; in float: {_names(self.float_layers)}" if self.float_layers else "")


def _names(layers: dict[str, str]) -> str:
    return listed([f"{name} ({kind})" for name, kind in layers.items()])


class Int8Linear(nn.Module):
    """A linear layer that keeps its weight in eight bits.

    Args:
        layer: What it stands for; the weight is zero until one is loaded.
    """

    weight_int8: Tensor
    weight_scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        shape = layer.weight.shape
        self.register_buffer("weight_int8", torch.zeros(shape, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(shape[0], 1))
        self.bias: nn.Parameter = layer.bias

    @property
    def weight(self) -> Tensor:
        """In float, (outputs, inputs)."""
        return self.weight_int8.to(self.weight_scale.dtype) * self.weight_scale

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return F.linear(inputs, self.weight, self.bias)


class OnnxInt8Linear(Int8Linear):
    """With ONNX's own operator, which keeps small weights in eight bits too.

    It can't be computed here.
    """

    def __init__(self, layer: Int8Linear) -> None:
        nn.Module.__init__(self)
        self.register_buffer("weight_int8", layer.weight_int8)
        self.register_buffer("weight_scale", layer.weight_scale.flatten())
        self.bias: nn.Parameter = layer.bias

    @property
    def weight(self) -> Tensor:
        """See `Int8Linear`."""
        return torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (self.weight_int8, self.weight_scale),
            attrs={"axis": 0},
            dtype=self.weight_scale.dtype,
            shape=self.weight_int8.shape,
        )


def require_torchao() -> None:
    """UsageError where the library is missing, or made for another torch."""
    try:
        with _quiet():
            import torchao.quantization  # noqa: F401
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError):  # it is there, and finds something amiss
            raise UsageError(
                f"--quantize: the torchao that is installed can't work with torch "
                f"{torch.__version__} ({error}); torchao 0.17 works with torch 2.9 to 2.14"
            ) from error
        raise UsageError(
            f"--quantize needs {error.name or 'torchao'}: pip install 'dltrain[export]'"
        ) from error


def by_torchao(model: nn.Module) -> dict[str, nn.Linear]:
    """A model's linear layers as torchao quantises them, copies, by name.

    Only layers that are exactly `nn.Linear`, in float32: another class may do something else with
    its weight. A weight that another layer has too stays with it in float, and so does one of a
    single input: each output's scale would be as large.

    Raises:
        UsageError: There are none, or torchao is not installed.
    """
    require_torchao()
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    owners = Counter(
        id(weight) for module in model.modules() for weight in module._parameters.values()
    )
    found = {
        name: copy.deepcopy(layer)
        for name, layer in model.named_modules()
        if name and type(layer) is nn.Linear  # without a name it is the model itself
        if layer.in_features > 1 and layer.weight.dtype == torch.float32
        if owners[id(layer.weight)] == 1
    }
    if not found:
        raise UsageError(
            "nothing of this model can be quantised: int8 is for nn.Linear layers in float32 with "
            "a weight of their own, and it has none; leave out --quantize"
        )
    for layer in found.values():
        # The other settings are of a compiler that is not used here, and change it for good.
        quantize_(layer, Int8WeightOnlyConfig(version=2, set_inductor_config=False))
    return found


def int8_layers(quantized: dict[str, nn.Linear]) -> dict[str, nn.Module]:
    """The layers of `by_torchao` in a form that any file holds."""
    made: dict[str, nn.Module] = {}
    for name, layer in quantized.items():
        made[name] = form = Int8Linear(layer)
        weight: Any = layer.weight
        form.weight_int8.copy_(weight.qdata)
        form.weight_scale.copy_(weight.scale.reshape(-1, 1))
    return made


def described(model: nn.Module, quantized: Iterable[str]) -> Quantized:
    """What of a model is in eight bits where the layers of these names are."""
    kinds = {
        name: type(layer).__name__
        for name, layer in model.named_modules()
        if any(True for _ in layer.parameters(recurse=False))
    }
    layers = {name: kinds.pop(name) for name in quantized}
    in_eight = sum(_linear(model, name).weight.numel() for name in layers)
    total = sum(weight.numel() for weight in model.parameters())
    return Quantized("int8", layers, kinds, in_eight / total)


def with_int8_layers(model: nn.Module, names: Iterable[str]) -> None:
    """Makes a model of floats one that weights of `int8_layers` can be loaded into."""
    for name in names:
        model.set_submodule(name, Int8Linear(_linear(model, name)))


def _linear(model: nn.Module, name: str) -> nn.Linear:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


@contextmanager
def _quiet() -> Iterator[None]:
    """Drops what is logged of each import of torchao, and nothing else."""
    with ExitStack() as stack:
        for name, beginning in QUIET.items():
            logger = logging.getLogger(name)

            def wanted(record: logging.LogRecord, beginning: str = beginning) -> bool:
                return not record.getMessage().startswith(beginning)

            logger.addFilter(wanted)
            stack.callback(logger.removeFilter, wanted)
        yield
