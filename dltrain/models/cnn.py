"""A plain convolutional network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from dltrain.core.data_spec import DataSpec
from dltrain.core.errors import UsageError
from dltrain.core.option_types import PositiveInt, Probability
from dltrain.core.registry import MODELS
from dltrain.models.layers import (
    Activation,
    Dropout,
    HiddenInit,
    activation_layer,
    initialise,
    is_monotonic,
)

Padding = Literal["valid", "same"]


@MODELS.register
def cnn(
    spec: DataSpec,
    /,
    *,
    channels: tuple[PositiveInt, ...] = (32, 64),
    kernel_size: PositiveInt = 3,
    padding: Padding = "valid",
    activation: Activation = "relu",
    dropout: Probability = 0.5,
    batch_norm: bool = False,
    init: HiddenInit = "default",
) -> nn.Module:
    """Convolutional network for small pictures: (batch, *input_shape) -> (batch, num_outputs).

    Each stage is a convolution, an activation and a 2x2 max-pooling; one linear layer follows. The
    defaults are the network of Keras' introduction to MNIST.

    Args:
        channels: Output channels of each stage.
        kernel_size: Height and width of the convolutions' kernels.
        padding: valid uses whole windows only, same keeps height and width with zeros at the edge.
        activation: Nonlinearity of each stage.
        dropout: Share of features set to zero in training before the linear layer.
        batch_norm: Normalise each convolution's output over the batch.
        init: How the weights begin.

    Raises:
        UsageError: The samples are not pictures, or are too small for that many stages; or an even
            kernel has no middle to pad around.
    """
    if len(spec.input_shape) != 3:
        raise UsageError(
            f"model 'cnn' needs pictures (channels, height, width), and this data has samples of "
            f"shape {spec.input_shape}: model 'mlp' takes any shape"
        )
    if padding == "same" and kernel_size % 2 == 0:
        raise UsageError(f"'padding: same' needs an odd kernel_size, and it is {kernel_size}")
    width, *size = spec.input_shape
    layers: list[nn.Module] = []
    for stage, next_width in enumerate(channels):
        size = [_size_after_stage(pixels, kernel_size, padding) for pixels in size]
        if min(size) < 1:
            height, breadth = spec.input_shape[1:]
            raise UsageError(
                f"pictures of {height}x{breadth} have room for {stage} of the {len(channels)} "
                f"stages that 'channels' lists, each a {kernel_size}x{kernel_size} convolution "
                f"(padding {padding}) and a 2x2 pooling"
            )
        # Batch normalisation subtracts the mean, and a bias with it.
        layers.append(
            nn.Conv2d(width, next_width, kernel_size, padding=padding, bias=not batch_norm)
        )
        if batch_norm:
            layers.append(nn.BatchNorm2d(next_width))
        # The maximum passes through a function that never falls, max(f(x)) = f(max(x)), so such an
        # activation may come after the pooling, where it has a quarter of the elements to work on.
        pooling, nonlinearity = nn.MaxPool2d(2), activation_layer(activation)
        layers += [pooling, nonlinearity] if is_monotonic(activation) else [nonlinearity, pooling]
        width = next_width
    layers += [nn.Flatten(), Dropout(dropout)]
    layers.append(nn.Linear(width * size[0] * size[1], spec.num_outputs))
    if padding == "valid" and not batch_norm:
        seen = [_size_seen(pixels, kernel_size, len(channels)) for pixels in size]
        return initialise(_OfCorner(seen, *layers), init)
    return initialise(nn.Sequential(*layers), init)


class _OfCorner(nn.Sequential):
    """Layers that look at the first rows and columns of a picture alone.

    Where a pooling has an odd number of rows, it leaves out the last one; what only this row came
    from need not be computed: for 28x28 pixels and two stages, a sixth of the arithmetic. Batch
    normalisation would see the row in its statistics.

    Args:
        seen: Rows and columns.
        layers: See `nn.Sequential`.
    """

    def __init__(self, seen: Sequence[int], *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.rows, self.columns = seen

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return super().forward(input[:, :, : self.rows, : self.columns])


def _size_seen(pooled: int, kernel_size: int, stages: int) -> int:
    """Height or width of a picture that so many stages make `pooled` of, with nothing left out."""
    for _ in range(stages):
        pooled = 2 * pooled + kernel_size - 1
    return pooled


def _size_after_stage(pixels: int, kernel_size: int, padding: Padding) -> int:
    """Height or width after a convolution and a 2x2 pooling; below 1 if there is no room."""
    convolved = pixels if padding == "same" else pixels - kernel_size + 1
    return convolved // 2
