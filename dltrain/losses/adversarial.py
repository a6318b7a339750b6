"""Losses of a GAN, from the discriminator's outputs for real and fake samples.

Each returns one value per sample. The discriminator's outputs are logits, except for the
Wasserstein loss, whose discriminator is a critic with unbounded scores.
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
    """Base class of the losses of a GAN.

    Attributes:
        num_outputs: Width of the discriminator's output.
    """

    num_outputs = 1

    @abstractmethod
    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the loss of each pair of outputs, (batch,), from two tensors of (batch, 1)."""

    @abstractmethod
    def generator(self, fake: Tensor) -> Tensor:
        """Return the loss of each fake sample, (batch,), of outputs (batch, 1)."""

    def penalty(
        self,
        discriminator: Callable[[Tensor], Tensor],
        real: Tensor,
        fake: Tensor,
        fraction: Tensor,
    ) -> Tensor | float:
        """Return what is added to the discriminator's loss, (batch,); 0 by default.

        Args:
            discriminator: (batch, *input_shape) to (batch, 1).
            real: Real samples, (batch, *input_shape).
            fake: Fake samples, (batch, *input_shape), without a gradient.
            fraction: Random numbers in [0, 1), (batch,).
        """
        return 0.0


@LOSSES.register("non_saturating")
class NonSaturating(AdversarialLoss):
    """Binary cross-entropy; the generator maximizes the log-probability of being real.

    Goodfellow et al., "Generative adversarial nets", 2014, section 3; one-sided smoothing as in
    Salimans et al., "Improved techniques for training GANs", 2016.

    Args:
        label_smoothing: Subtracted from the discriminator's target for real samples, 1.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> loss = NonSaturating(DataSpec((4,), 1, TableInputs(())))
        >>> real, fake = torch.ones(5, 1), torch.zeros(5, 1)  # outputs of the discriminator
        >>> loss.discriminator(real, fake).shape, loss.generator(fake).shape
        (torch.Size([5]), torch.Size([5]))
    """

    def __init__(self, spec: DataSpec, /, *, label_smoothing: Probability = 0.0) -> None:
        """See the class for the option."""
        super().__init__()
        self.label_smoothing = label_smoothing

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the sum of the losses of the real and of the fake sample."""
        real, fake = at_least_float32(real).flatten(), at_least_float32(fake).flatten()
        # softplus(x) = -log(1 - sigmoid(x)), and cross-entropy with target t is softplus(x) - t x.
        return F.softplus(real) - (1 - self.label_smoothing) * real + F.softplus(fake)

    def generator(self, fake: Tensor) -> Tensor:
        """See `AdversarialLoss`."""
        return F.softplus(-at_least_float32(fake).flatten())


@LOSSES.register("hinge")
class Hinge(AdversarialLoss):
    """Hinge loss of the discriminator; the generator maximizes its output (Lim and Ye, 2017).

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> loss = Hinge(DataSpec((4,), 1, TableInputs(())))
        >>> real, fake = torch.ones(5, 1), torch.zeros(5, 1)  # outputs of the discriminator
        >>> loss.discriminator(real, fake).shape, loss.generator(fake).shape
        (torch.Size([5]), torch.Size([5]))
    """

    def __init__(self, spec: DataSpec, /) -> None:
        """The loss has no options."""
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
    """Difference of the mean scores of a critic, with a gradient penalty (Gulrajani et al., 2017).

    The critic must not normalize over the batch, because the penalty is computed per sample. Both
    phases run once per step: give the critic a higher learning rate, `phases: {discriminator: …}`
    (Heusel et al., "GANs trained by a two time-scale update rule", 2017).

    Args:
        gradient_penalty: Weight of the squared difference between the gradient's norm and 1.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> loss = Wasserstein(DataSpec((4,), 1, TableInputs(())), gradient_penalty=5.0)
        >>> real, fake = torch.ones(5, 1), torch.zeros(5, 1)  # outputs of the discriminator
        >>> loss.discriminator(real, fake).shape, loss.generator(fake).shape
        (torch.Size([5]), torch.Size([5]))
    """

    def __init__(self, spec: DataSpec, /, *, gradient_penalty: NonNegativeFloat = 10.0) -> None:
        """See the class for the option."""
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
        fraction: Tensor,
    ) -> Tensor | float:
        """Return the penalty at random points between real and fake samples, in full precision."""
        if not self.gradient_penalty:
            return 0.0
        with torch.autocast(real.device.type, enabled=False):
            fraction = fraction.reshape(-1, *[1] * (real.ndim - 1))
            between = torch.lerp(real, fake.to(real.dtype), fraction).requires_grad_()
            score = discriminator(between).sum()
            (gradient,) = torch.autograd.grad(score, between, create_graph=True)
            norm = gradient.flatten(1).norm(dim=1)
            return self.gradient_penalty * (norm - 1).square()
