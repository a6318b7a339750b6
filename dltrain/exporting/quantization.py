"""Linear layers with 8-bit weights, quantized by torchao and used without it.

Each row of a weight, (outputs, inputs), becomes integers from -128 to 127 and one scale.
Activations stay in float32: 8-bit activations would need an integer matrix product, which the ONNX
exporter lacks and which gives different results on CPUs with saturating arithmetic.
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
from dltrain.exporting.description import join_names

Method = Literal["int8"]

QUIET = {
    "torch.utils._pytree": "<enum 'KernelPreference'> is an Enum subclass",
    "torchao": "Skipping import of cpp extensions",
}
"""Loggers, and the beginning of their irrelevant messages on each import of torchao."""


@dataclass(frozen=True)
class Quantized:
    """The layers of a model with 8-bit weights.

    Attributes:
        method: Method of quantization.
        layers: Types by name of the layers with 8-bit weights; their biases are in float.
        float_layers: Types by name of the other layers with weights.
        share: Fraction of all weights.
    """

    method: Method
    layers: dict[str, str]
    float_layers: dict[str, str]
    share: float

    def describe(self) -> str:
        """Describe the layers in one line."""
        total = len(self.layers) + len(self.float_layers)
        text = (
            f"{len(self.layers)} of {total} layers with weights, {self.share:.1%} of the weights: "
            f"{_format_layers(self.layers)}"
        )
        return text + (
            f"; in float: {_format_layers(self.float_layers)}" if self.float_layers else ""
        )


def _format_layers(layers: dict[str, str]) -> str:
    return join_names([f"{name} ({kind})" for name, kind in layers.items()])


class Int8Linear(nn.Module):
    """A linear layer with an 8-bit weight.

    Args:
        layer: Layer to replace; the weight is zero until it is loaded.
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
        """Return the weight in float, (outputs, inputs)."""
        return self.weight_int8.to(self.weight_scale.dtype) * self.weight_scale

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return F.linear(inputs, self.weight, self.bias)


class OnnxInt8Linear(Int8Linear):
    """An `Int8Linear` with ONNX's operator, which keeps small weights in 8 bits too.

    PyTorch can export it but not run it.
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
    """Raise a UsageError if torchao is missing or incompatible with torch."""
    try:
        with _quiet():
            import torchao.quantization  # noqa: F401
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError):  # installed, but its import fails
            raise UsageError(
                f"--quantize: the installed torchao is incompatible with torch "
                f"{torch.__version__} ({error}); torchao 0.17 works with torch 2.9 to 2.14"
            ) from error
        raise UsageError(
            f"--quantize needs {error.name or 'torchao'}: pip install 'dltrain[export]'"
        ) from error


def quantize_linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return copies of a model's linear layers, quantized by torchao, by name.

    Only layers of the exact class `nn.Linear` in float32 are quantized, since a subclass may use
    its weight differently. Weights shared with another layer and weights with a single input, whose
    scales would be as large, stay in float.

    Raises:
        UsageError: There are no such layers, or torchao is not installed.
    """
    require_torchao()
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    owners = Counter(
        id(weight) for module in model.modules() for weight in module._parameters.values()
    )
    found = {
        name: copy.deepcopy(layer)
        for name, layer in model.named_modules()
        if name and type(layer) is nn.Linear  # the model itself has no name
        if layer.in_features > 1 and layer.weight.dtype == torch.float32
        if owners[id(layer.weight)] == 1
    }
    if not found:
        raise UsageError(
            "the model has no layer that can be quantized: expected nn.Linear layers in float32 "
            "whose weights are not shared; omit --quantize"
        )
    for layer in found.values():
        # The inductor config is unused here, and setting it would affect the whole process.
        quantize_(layer, Int8WeightOnlyConfig(version=2, set_inductor_config=False))
    return found


def to_int8_layers(quantized: dict[str, nn.Linear]) -> dict[str, nn.Module]:
    """Convert the layers of `quantize_linear_layers` to `Int8Linear`."""
    layers: dict[str, nn.Module] = {}
    for name, layer in quantized.items():
        layers[name] = converted = Int8Linear(layer)
        weight: Any = layer.weight
        converted.weight_int8.copy_(weight.qdata)
        converted.weight_scale.copy_(weight.scale.reshape(-1, 1))
    return layers


def describe_quantization(model: nn.Module, quantized: Iterable[str]) -> Quantized:
    """Describe a model whose layers of these names are quantized."""
    kinds = {
        name: type(layer).__name__
        for name, layer in model.named_modules()
        if any(True for _ in layer.parameters(recurse=False))
    }
    layers = {name: kinds.pop(name) for name in quantized}
    quantized_weights = sum(_linear(model, name).weight.numel() for name in layers)
    total = sum(weight.numel() for weight in model.parameters())
    return Quantized("int8", layers, kinds, quantized_weights / total)


def insert_int8_layers(model: nn.Module, names: Iterable[str]) -> None:
    """Replace linear layers by `Int8Linear`, so that quantized weights can be loaded."""
    for name in names:
        model.set_submodule(name, Int8Linear(_linear(model, name)))


def _linear(model: nn.Module, name: str) -> nn.Linear:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the messages in `QUIET`."""
    with ExitStack() as stack:
        for name, beginning in QUIET.items():
            logger = logging.getLogger(name)

            def is_relevant(record: logging.LogRecord, beginning: str = beginning) -> bool:
                return not record.getMessage().startswith(beginning)

            logger.addFilter(is_relevant)
            stack.callback(logger.removeFilter, is_relevant)
        yield
