"""A model that waits in a chosen step, so that a test can send a signal to its process."""

import math
import os
import sys
import time
from pathlib import Path

from torch import Tensor, nn

from dltrain import MODELS, DataSpec


class Waiting(nn.Module):
    """Wait in training step WAIT_IN_STEP of the process until the file WAIT_FOR exists."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        inputs = math.prod(spec.input_shape)
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, 8), nn.Dropout(0.2), nn.Linear(8, spec.num_outputs)
        )
        self.steps = 0

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
            if self.steps == int(os.environ.get("WAIT_IN_STEP", "0")):
                print("waiting", file=sys.stderr, flush=True)
                while not Path(os.environ["WAIT_FOR"]).exists():
                    time.sleep(0.01)
        return self.net(inputs)


@MODELS.register
def waiting(spec: DataSpec, /) -> nn.Module:
    """Build a small network that waits in step WAIT_IN_STEP."""
    return Waiting(spec)
