"""A convolutional network for small images."""

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
    initialize_weights,
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
    """Convolutional network for small images: (batch, *input_shape) -> (batch, num_outputs).

    Each stage is a convolution, an activation and a 2x2 max-pooling; a linear layer follows. The
    defaults are the network of the Keras introduction to MNIST.

    Args:
        channels: Output channels of each stage.
        kernel_size: Height and width of the convolutions' kernels.
        padding: valid does not pad; same pads with zeros to keep height and width.
        activation: Nonlinearity of each stage.
        dropout: Dropout probability before the linear layer.
        batch_norm: Apply batch normalization after each convolution.
        init: Weight initialization.

    Raises:
        UsageError: The samples are not images, or are too small for that many stages; or
            `padding` is same and `kernel_size` is even.

    Example:
        >>> import torch
        >>> from dltrain.core.data_spec import DataSpec, ImageInputs
        >>> spec = DataSpec((1, 28, 28), 10, ImageInputs((0.5,), (0.5,)))
        >>> cnn(spec, channels=(8, 16))(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """
    if len(spec.input_shape) != 3:
        raise UsageError(
            f"model 'cnn' expected images (channels, height, width), got samples of shape "
            f"{spec.input_shape}: model 'mlp' takes any shape"
        )
    if padding == "same" and kernel_size % 2 == 0:
        raise UsageError(f"'padding: same' expected an odd kernel_size, got {kernel_size}")
    width, *size = spec.input_shape
    layers: list[nn.Module] = []
    for stage, next_width in enumerate(channels):
        size = [_size_after_stage(pixels, kernel_size, padding) for pixels in size]
        if min(size) < 1:
            height, breadth = spec.input_shape[1:]
            raise UsageError(
                f"images of {height}x{breadth} are large enough for {stage} of the {len(channels)} "
                f"stages in 'channels', each a {kernel_size}x{kernel_size} convolution "
                f"(padding {padding}) and a 2x2 pooling"
            )
        # Batch normalization subtracts the mean, which cancels a bias.
        layers.append(
            nn.Conv2d(width, next_width, kernel_size, padding=padding, bias=not batch_norm)
        )
        if batch_norm:
            layers.append(nn.BatchNorm2d(next_width))
        # For a monotonic activation, max(f(x)) = f(max(x)): it may follow the pooling, where it has
        # a quarter of the elements.
        pooling, nonlinearity = nn.MaxPool2d(2), activation_layer(activation)
        layers += [pooling, nonlinearity] if is_monotonic(activation) else [nonlinearity, pooling]
        width = next_width
    layers += [nn.Flatten(), Dropout(dropout)]
    layers.append(nn.Linear(width * size[0] * size[1], spec.num_outputs))
    if padding == "valid" and not batch_norm:
        used = [_used_size(pixels, kernel_size, len(channels)) for pixels in size]
        return initialize_weights(_CroppedSequential(used, *layers), init)
    return initialize_weights(nn.Sequential(*layers), init)


class _CroppedSequential(nn.Sequential):
    """Layers that use only the first rows and columns of an image.

    A pooling of an odd number of rows drops the last one, so the pixels that only this row depends
    on need not be computed: for 28x28 pixels and two stages, a sixth of the arithmetic. With batch
    normalization the row would count in the statistics.

    Args:
        used: Number of rows and of columns.
        layers: See `nn.Sequential`.
    """

    def __init__(self, used: Sequence[int], *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.rows, self.columns = used

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return super().forward(input[:, :, : self.rows, : self.columns])


def _used_size(pooled: int, kernel_size: int, stages: int) -> int:
    """Return the height or width of the pixels on which `pooled` outputs depend."""
    for _ in range(stages):
        pooled = 2 * pooled + kernel_size - 1
    return pooled


def _size_after_stage(pixels: int, kernel_size: int, padding: Padding) -> int:
    """Return the height or width after a convolution and a 2x2 pooling; below 1 if too small."""
    convolved = pixels if padding == "same" else pixels - kernel_size + 1
    return convolved // 2
