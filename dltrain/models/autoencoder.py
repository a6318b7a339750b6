"""Networks that give their inputs back, through a code of a few numbers."""

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
    """Linear layers to a code and back, for task `autoencoder`: (batch, *input_shape) -> the same.

    Args:
        latent: Width of the code.
        hidden: Widths of the encoder's hidden layers; the decoder's are the same, from the last to
            the first.
        activation: Nonlinearity after each hidden layer.
        variational: Let the encoder give mean and log-variance of a normal distribution that codes
            are drawn from in training (Kingma and Welling, 2014); new samples can then be drawn.

    Raises:
        UsageError: The data is text.
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
        """Takes the options that the class describes."""
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
        """The inputs, as the code lets them through; of a distribution of codes, the mean."""
        return self.decoder(self.encoder(inputs)[:, : self.latent])


def _layers(widths: tuple[int, ...], activation: Activation) -> list[nn.Module]:
    """Linear layers with an activation between each two."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation_layer(activation)]
    return layers[:-1]
