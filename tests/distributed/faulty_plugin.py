"""A model with a fault on one rank, which an environment variable selects.

FAULT is KIND:RANK:STEP. The fault occurs in this training step of the rank, and only before the
launcher restarts it: `kill` sends SIGKILL, `raise` raises an error, `signal` sends SIGTERM to the
launcher, `interrupt` sends it to the rank, `full` simulates a full disk.
"""

import errno
import math
import os
import signal

from torch import Tensor, nn

from dltrain import MODELS, DataSpec
from dltrain.checkpoints import store

KIND, RANK, STEP = os.environ.get("FAULT", "none:0:0").split(":")


def fault() -> None:
    match KIND:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            raise ValueError("one process alone fails")
        case "signal":
            os.kill(os.getppid(), signal.SIGTERM)
        case "interrupt":
            os.kill(os.getpid(), signal.SIGTERM)
        case "full":

            def write(path, content) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

            store.write = write


class Faulty(nn.Module):
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
            first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
            if first and self.steps == int(STEP) and os.environ.get("RANK", "0") == RANK:
                fault()
        return self.net(inputs)


@MODELS.register
def faulty(spec: DataSpec, /) -> nn.Module:
    """Build a small network with dropout and the fault."""
    return Faulty(spec)
