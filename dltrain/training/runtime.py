"""Device, precision and process group of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from dltrain.core.protocols import ProcessGroup
from dltrain.training.device import Precision


@dataclass(frozen=True)
class Runtime:
    """Device, precision and process group that an experiment runs with.

    Attributes:
        device: Device of this process.
        precision: Parameter dtype, autocast context and gradient scaler.
        process_group: Ranks that train together.
        is_sharded: Whether each rank holds a shard of the weights only (FSDP).
    """

    device: torch.device
    precision: Precision
    process_group: ProcessGroup = field(default_factory=ProcessGroup)
    is_sharded: bool = False
