"""Losses of a GAN's two sides, of the outputs that a discriminator gives to real and fake samples.

Each gives one number a sample, as the others do. The last one's outputs are no logits: its
discriminator, a critic, scores samples on a scale without bounds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.core.data_spec import DataSpec
from dltrain.core.option_types import NonNegativeFloat, Probability
from dltrain.core.registry import LOSSES
from dltrain.losses.supervised import at_least_float32


class AdversarialLoss(nn.Module, ABC):
    """What discriminator and generator make small.

    Attributes:
        num_outputs: Width of the discriminator's output.
    """

    num_outputs = 1

    @abstractmethod
    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of each pair, (batch,), of outputs (batch, 1) for real and for fake samples."""

    @abstractmethod
    def generator(self, fake: Tensor) -> Tensor:
        """Loss of each fake sample, (batch,), of outputs (batch, 1)."""

    def penalty(
        self,
        discriminator: Callable[[Tensor], Tensor],
        real: Tensor,
        fake: Tensor,
        share: Tensor,
    ) -> Tensor | float:
        """What is added to the discriminator's loss, (batch,), or 0 where nothing is.

        Args:
            discriminator: (batch, *input_shape) to (batch, 1).
            real: (batch, *input_shape).
            fake: As many, without a gradient.
            share: (batch,) in [0, 1), drawn for each pair.
        """
        return 0.0


@LOSSES.register("non_saturating")
class NonSaturating(AdversarialLoss):
    """Binary cross-entropy; the generator maximises the log-probability of being taken for real.

    Goodfellow et al., "Generative adversarial nets", 2014, section 3; one-sided smoothing as in
    Salimans et al., "Improved techniques for training GANs", 2016.

    Args:
        label_smoothing: The discriminator's target for real samples is 1 less this.
    """

    def __init__(self, spec: DataSpec, /, *, label_smoothing: Probability = 0.0) -> None:
        """Takes the option that the class describes."""
        super().__init__()
        self.label_smoothing = label_smoothing

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """See `AdversarialLoss`; the sum over the two halves."""
        real, fake = at_least_float32(real).flatten(), at_least_float32(fake).flatten()
        # softplus(x) = -log(1 - sigmoid(x)), and cross-entropy with target t is softplus(x) - t x.
        return F.softplus(real) - (1 - self.label_smoothing) * real + F.softplus(fake)

    def generator(self, fake: Tensor) -> Tensor:
        """See `AdversarialLoss`."""
        return F.softplus(-at_least_float32(fake).flatten())


@LOSSES.register("hinge")
class Hinge(AdversarialLoss):
    """Hinge loss of the discriminator; the generator raises its output (Lim and Ye, 2017)."""

    def __init__(self, spec: DataSpec, /) -> None:
        """Has no options."""
        super().__init__()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """See `AdversarialLoss`."""
        real, fake = at_least_float32(real).flatten(), at_least_float32(fake).flatten()
        return F.relu(1 - real) + F.relu(1 + fake)

    def generator(self, fake: Tensor) -> Tensor:
        """See `AdversarialLoss`."""
        return -at_least_float32(fake).flatten()


@LOSSES.register("wasserstein")
class Wasserstein(AdversarialLoss):
    """Difference of a critic's mean scores, with a gradient penalty (Gulrajani et al., 2017).

    The critic must not normalise over the batch, for the penalty is each sample's own. Both phases
    run once a step: give the critic a higher learning rate, `phases: {discriminator: …}` (Heusel et
    al., "GANs trained by a two time-scale update rule", 2017).

    Args:
        gradient_penalty: Weight of the squared distance of the gradient's norm from 1.
    """

    def __init__(self, spec: DataSpec, /, *, gradient_penalty: NonNegativeFloat = 10.0) -> None:
        """Takes the option that the class describes."""
        super().__init__()
        self.gradient_penalty = gradient_penalty

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """See `AdversarialLoss`."""
        return (at_least_float32(fake) - at_least_float32(real)).flatten()

    def generator(self, fake: Tensor) -> Tensor:
        """See `AdversarialLoss`."""
        return -at_least_float32(fake).flatten()

    def penalty(
        self,
        discriminator: Callable[[Tensor], Tensor],
        real: Tensor,
        fake: Tensor,
        share: Tensor,
    ) -> Tensor | float:
        """At points on the lines between real and fake samples; in full precision."""
        if not self.gradient_penalty:
            return 0.0
        with torch.autocast(real.device.type, enabled=False):
            share = share.reshape(-1, *[1] * (real.ndim - 1))
            between = torch.lerp(real, fake.to(real.dtype), share).requires_grad_()
            score = discriminator(between).sum()
            (gradient,) = torch.autograd.grad(score, between, create_graph=True)
            norm = gradient.flatten(1).norm(dim=1)
            return self.gradient_penalty * (norm - 1).square()
