"""Generators and discriminators of GANs."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Literal

from torch import Tensor, nn

from dltrain.core.data_spec import DataSpec
from dltrain.core.errors import OptionError, UsageError
from dltrain.core.option_types import PositiveInt, Probability
from dltrain.core.registry import MODELS
from dltrain.models.layers import AsSamples, Dropout, require_numbers

Norm = Literal["batch", "group", "none"]
SLOPE = 0.2
"""Negative slope of the leaky ReLUs of discriminators (Radford et al., 2016)."""


class Adversaries(nn.Module):
    """A generator and its discriminator.

    Attributes:
        latent: Width of the noise.
        generator: (batch, latent) -> (batch, *input_shape).
        discriminator: (batch, *input_shape) -> (batch, num_outputs).
    """

    def __init__(self, latent: int, generator: nn.Module, discriminator: nn.Module) -> None:
        super().__init__()
        self.latent = latent
        self.generator = generator
        self.discriminator = discriminator

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs of the discriminator for samples."""
        return self.discriminator(inputs)


@MODELS.register
def gan_mlp(
    spec: DataSpec,
    /,
    *,
    latent: PositiveInt = 64,
    hidden: tuple[PositiveInt, ...] = (256, 512),
    dropout: Probability = 0.0,
) -> nn.Module:
    """Generator and discriminator of linear layers, for task `gan`; images or tables.

    Args:
        latent: Width of the noise.
        hidden: Widths of the generator's hidden layers; the discriminator has them in reverse.
        dropout: Dropout probability after each hidden layer of the discriminator.

    Example:
        >>> import torch
        >>> from dltrain.core.data_spec import DataSpec, ImageInputs
        >>> model = gan_mlp(DataSpec((1, 28, 28), 1, ImageInputs((0.5,), (0.5,))), latent=8)
        >>> fake = model.generator(torch.zeros(5, 8))
        >>> fake.shape, model.discriminator(fake).shape
        (torch.Size([5, 1, 28, 28]), torch.Size([5, 1]))
    """
    require_numbers(spec, "gan_mlp")
    size = prod(spec.input_shape)
    generator: list[nn.Module] = []
    for before, after in pairwise((latent, *hidden)):
        generator += [nn.Linear(before, after), nn.ReLU()]
    generator += [nn.Linear((latent, *hidden)[-1], size), AsSamples(spec)]
    discriminator: list[nn.Module] = [nn.Flatten()]
    widths = (size, *reversed(hidden))
    for before, after in pairwise(widths):
        discriminator += [nn.Linear(before, after), nn.LeakyReLU(SLOPE), Dropout(dropout)]
    discriminator.append(nn.Linear(widths[-1], spec.num_outputs))
    return Adversaries(latent, nn.Sequential(*generator), nn.Sequential(*discriminator))


@MODELS.register
def dcgan(
    spec: DataSpec,
    /,
    *,
    latent: PositiveInt = 64,
    channels: tuple[PositiveInt, ...] = (128, 64),
    norm: Norm = "batch",
    dropout: Probability = 0.0,
) -> nn.Module:
    """Convolutional generator and discriminator, for task `gan`; images.

    Radford et al., "Unsupervised representation learning with deep convolutional generative
    adversarial networks", 2016: 4x4 convolutions of stride 2, transposed in the generator; normal
    initial weights with standard deviation 0.02. The discriminator has no normalization, so that it
    works with any loss.

    Args:
        latent: Width of the noise.
        channels: Channels of the generator's stages, each of which doubles height and width; the
            discriminator has them in reverse.
        norm: Normalization of the generator's feature maps. batch depends on the other samples of
            a (micro-)batch and has running statistics, which `train.ema` does not average; group
            has neither property.
        dropout: Dropout probability before the last layer of the discriminator.

    Raises:
        OptionError: There are no channels.
        UsageError: The samples are not images, or their sides can't be halved once per stage.

    Example:
        >>> import torch
        >>> from dltrain.core.data_spec import DataSpec, ImageInputs
        >>> model = dcgan(DataSpec((1, 28, 28), 1, ImageInputs((0.5,), (0.5,))), latent=8)
        >>> fake = model.generator(torch.zeros(5, 8))
        >>> fake.shape, model.discriminator(fake).shape
        (torch.Size([5, 1, 28, 28]), torch.Size([5, 1]))
    """
    if len(spec.input_shape) != 3:
        raise UsageError(
            f"model 'dcgan' expected images (channels, height, width), got samples of shape "
            f"{spec.input_shape}: model 'gan_mlp' takes any numbers"
        )
    if not channels:
        raise OptionError("channels", "model 'dcgan' expected at least one, such as [128, 64]")
    width, *size = spec.input_shape
    if any(side % 2 ** len(channels) for side in size):
        raise UsageError(
            f"images of {size[0]}x{size[1]} can't be halved {len(channels)} times, once for each "
            "of the 'channels'"
        )
    height, breadth = (side // 2 ** len(channels) for side in size)
    generator: list[nn.Module] = [
        nn.Linear(latent, channels[0] * height * breadth),
        nn.Unflatten(1, (channels[0], height, breadth)),
    ]
    for before, after in zip(channels, (*channels[1:], width), strict=True):
        generator += [*_norm(norm, before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1)]
    generator.append(AsSamples(spec))
    discriminator: list[nn.Module] = []
    for before, after in zip((width, *channels[:0:-1]), reversed(channels), strict=True):
        discriminator += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(SLOPE)]
    discriminator += [
        nn.Flatten(),
        Dropout(dropout),
        nn.Linear(channels[0] * height * breadth, spec.num_outputs),
    ]
    model = Adversaries(latent, nn.Sequential(*generator), nn.Sequential(*discriminator))
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return model


def _norm(norm: Norm, channels: int) -> list[nn.Module]:
    if norm == "batch":
        return [nn.BatchNorm2d(channels)]
    groups = next(n for n in (8, 4, 2, 1) if channels % n == 0)
    return [nn.GroupNorm(groups, channels)] if norm == "group" else []
