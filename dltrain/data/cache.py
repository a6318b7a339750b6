"""Cache of decoded samples in memory, so that each is read once."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from dltrain.core.errors import OptionError
from dltrain.data.in_memory import to_device


class MemoryCache:
    """Samples in their compact dtype on the device, stored as they are read.

    Args:
        num_samples: Number of samples in the split.
        shape: Shape of a sample.
        dtype: Dtype of a sample, uint8 or int32.
        device: Device of the storage.
    """

    def __init__(
        self, num_samples: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._samples = torch.empty((num_samples, *shape), dtype=dtype, device=device)
        self._has = torch.zeros(num_samples, dtype=torch.bool)

    def misses(self, index: Tensor) -> bool:
        """Return whether any sample is not stored yet; `index` is (batch,) int64 on the CPU."""
        return not bool(self._has[index].all())

    def store(self, index: Tensor, samples: Tensor) -> None:
        """Store samples, (batch, *shape) on the device; `index` is (batch,) int64 on the CPU."""
        self._samples[to_device(index, samples.device)] = samples
        self._has[index] = True

    def take(self, index: Tensor) -> Tensor:
        """Return the samples of an index, (batch,) int64 on the device."""
        return self._samples.index_select(0, index)


def require_cache_memory(num_samples: int, sample_bytes: int, device: torch.device) -> None:
    """Check that a cache takes at most three quarters of the free memory, if that is known.

    Raises:
        OptionError: The cache is larger.
    """
    needed, free = num_samples * sample_bytes, free_bytes(device)
    if free is not None and needed > free * 3 / 4:
        raise OptionError(
            "cache",
            f"{num_samples} decoded samples need {needed / 2**30:.1f} GiB, and {device} has "
            f"{free / 2**30:.1f} GiB free; disable the cache, or reduce `size`",
        )


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a GPU, or the available memory of the machine; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
