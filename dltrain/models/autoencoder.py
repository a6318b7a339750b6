"""Autoencoders: networks that reconstruct their inputs from a low-dimensional code."""

from __future__ import annotations

from itertools import pairwise
from math import prod

from torch import Tensor, nn

from dltrain.core.data_spec import DataSpec
from dltrain.core.option_types import PositiveInt
from dltrain.core.registry import MODELS
from dltrain.models.layers import Activation, AsSamples, activation_layer, require_numbers


@MODELS.register("autoencoder")
class Autoencoder(nn.Module):
    """Autoencoder of linear layers, for task `autoencoder`: (batch, *input_shape) -> the same.

    Args:
        latent: Width of the code.
        hidden: Widths of the encoder's hidden layers; the decoder has them in reverse.
        activation: Nonlinearity after each hidden layer.
        variational: Make the encoder return mean and log-variance of a normal distribution from
            which codes are sampled in training (Kingma and Welling, 2014); such a model can
            generate new samples.

    Raises:
        UsageError: The data is text.

    Example:
        >>> import torch
        >>> from dltrain.core.data_spec import DataSpec, ImageInputs
        >>> spec = DataSpec((1, 28, 28), 784, ImageInputs((0.5,), (0.5,)))
        >>> Autoencoder(spec, latent=8)(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 1, 28, 28])
    """

    def __init__(
        self,
        spec: DataSpec,
        /,
        *,
        latent: PositiveInt = 32,
        hidden: tuple[PositiveInt, ...] = (512, 256),
        activation: Activation = "relu",
        variational: bool = False,
    ) -> None:
        """See the class for the options."""
        super().__init__()
        require_numbers(spec, "autoencoder")
        size = prod(spec.input_shape)
        self.latent = latent
        self.variational = variational
        code = 2 * latent if variational else latent
        self.encoder: nn.Sequential = nn.Sequential(
            nn.Flatten(), *_layers((size, *hidden, code), activation)
        )
        widths = (latent, *reversed(hidden), size)
        self.decoder: nn.Sequential = nn.Sequential(*_layers(widths, activation), AsSamples(spec))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the reconstructed inputs; a variational model uses the mean of the codes."""
        return self.decoder(self.encoder(inputs)[:, : self.latent])


def _layers(widths: tuple[int, ...], activation: Activation) -> list[nn.Module]:
    """Return linear layers with activations between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation_layer(activation)]
    return layers[:-1]
