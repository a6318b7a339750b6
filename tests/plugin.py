"""Components for tests: models with hidden random state, and models that fail on request."""

import os
import random
import signal

import numpy as np
import torch
from torch import Tensor, nn

from dltrain import MODELS, DataSpec
from dltrain.models.gan import gan_mlp


class Stochastic(nn.Module):
    """Use every random generator and batch statistics, and fail in chosen training steps."""

    def __init__(self, spec: DataSpec, stop_at: int, signal_at_evaluation: int, nan_at: list[int]):
        super().__init__()
        inputs = int(np.prod(spec.input_shape))
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, 16),
            nn.BatchNorm1d(16, momentum=0.05),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(16, spec.num_outputs),
        )
        self.stop_at, self.signal_at_evaluation, self.nan_at = stop_at, signal_at_evaluation, nan_at
        self.calls = 0  # saved, but not a buffer, so that rolling back a step keeps it
        self.evaluations = 0

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "calls"] = torch.tensor(self.calls)

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        self.calls = int(state_dict.pop(prefix + "calls"))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.net(inputs)
        if not self.training:
            self.evaluations += 1
            if self.evaluations == self.signal_at_evaluation:
                os.kill(os.getpid(), signal.SIGTERM)
            return outputs
        self.calls += 1
        if self.calls == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if self.calls in self.nan_at:
            outputs = outputs * float("nan")
        return outputs * (1 + 0.1 * random.random()) + 0.1 * float(np.random.rand())


@MODELS.register
def stochastic(
    spec: DataSpec,
    /,
    *,
    stop_at: int = 0,
    signal_at_evaluation: int = 0,
    nan_at: tuple[int, ...] = (),
) -> nn.Module:
    """Build a model that draws from every random generator and can interrupt its run.

    Args:
        stop_at: Training forward pass that sends SIGTERM to the process; 0 for none.
        signal_at_evaluation: Evaluation forward pass that sends SIGTERM; 0 for none.
        nan_at: Training forward passes with NaN outputs.
    """
    return Stochastic(spec, stop_at, signal_at_evaluation, list(nan_at))


class InterruptingDiscriminator(nn.Module):
    """Add dropout to a discriminator and send SIGTERM in a chosen training pass."""

    def __init__(self, net: nn.Module, stop_at: int):
        super().__init__()
        self.net, self.dropout, self.stop_at = net, nn.Dropout(0.2), stop_at
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            if self.calls == self.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
        return self.net(self.dropout(inputs))


@MODELS.register
def stochastic_gan(spec: DataSpec, /, *, stop_at: int = 0) -> nn.Module:
    """Build a small GAN with dropout.

    Args:
        stop_at: Training pass of the discriminator that sends SIGTERM to the process; 0 for none.
    """
    model = gan_mlp(spec, latent=5, hidden=(12,))
    model.discriminator = InterruptingDiscriminator(model.discriminator, stop_at)
    return model
