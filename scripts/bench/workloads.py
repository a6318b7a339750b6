"""Networks, frameworks and the timer of the benchmark; imports no torch."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class Network:
    """One network on its data.

    Attributes:
        config: Name of the shipped config with this network.
        title: Title of its table.
        batch_size: Samples per optimizer step.
        epochs: Measured epochs, after one for warm-up.
        min_accuracy: Test accuracy below which a measurement is reported as not learned.
    """

    config: str
    title: str
    batch_size: int
    epochs: int
    min_accuracy: float


NETWORKS = {
    "mnist_mlp": Network("mnist_mlp", "MNIST, 784-128-10", 128, 3, 0.95),
    "mnist_mlp_32": Network("mnist_mlp", "MNIST, 784-128-10", 32, 1, 0.95),
    "mnist_cnn": Network("mnist_cnn", "MNIST, convolutions of 32 and 64", 128, 1, 0.97),
    "sst2_lstm": Network("sst2_lstm", "SST-2, bidirectional LSTM", 128, 2, 0.6),
}


@dataclass(frozen=True)
class Competitor:
    """A framework or loop with one input pipeline.

    Attributes:
        title: Title in the table.
        module: Module of this package with the function `train`.
        pipeline: `tensors` (in memory) or `tutorial` (data sets in a DataLoader).
        package: Required package by its name on PyPI; empty if only torch is needed.
        imports: Required modules.
        networks: Networks that it is measured on.
    """

    title: str
    module: str
    pipeline: str
    package: str = ""
    imports: tuple[str, ...] = ()
    networks: tuple[str, ...] = tuple(NETWORKS)

    @property
    def is_installed(self) -> bool:
        """Whether the required modules are installed."""
        return all(importlib.util.find_spec(name) for name in self.imports)

    def load(self) -> ModuleType:
        """Import the module and its framework."""
        return importlib.import_module(f"bench.{self.module}")


ALL = tuple(NETWORKS)
IMAGES = tuple(name for name in NETWORKS if name.startswith("mnist"))


def _framework(
    title: str,
    module: str,
    networks: tuple[str, ...],
    *,
    package: str | None = None,
    imports: tuple[str, ...] | None = None,
) -> dict[str, Competitor]:
    """Return a framework with each input pipeline."""
    # Small batches measure the overhead of a step, which the tutorial's data would hide.
    large_batches = tuple(name for name in networks if name != "mnist_mlp_32")
    return {
        f"{module}-{pipeline}": Competitor(
            f"{title}, {data}", module, pipeline, package or module, imports or (module,), measured
        )
        for pipeline, data, measured in (
            ("tensors", "tensors", networks),
            ("tutorial", "tutorial's data", large_batches),
        )
    }


COMPETITORS = {
    "dltrain": Competitor("dltrain", "dltrain_cli", "tensors"),
    "handwritten": Competitor("hand-written loop, tensors", "handwritten", "tensors"),
    "tutorial": Competitor("tutorial's loop", "tutorial", "tutorial"),
    **_framework("Lightning", "lightning", ALL),
    **_framework("Keras 3 on torch", "keras", IMAGES),
    **_framework(
        "Hugging Face Trainer", "transformers", IMAGES, imports=("transformers", "accelerate")
    ),
    **_framework("Ignite", "ignite", ALL, package="pytorch-ignite"),
    **_framework("skorch", "skorch", IMAGES),
}


@dataclass(frozen=True)
class Workload:
    """One training to measure.

    Attributes:
        network: Key of `NETWORKS`.
        pipeline: `tensors` or `tutorial`, see `Competitor`.
        epochs: Total number of epochs, including the first one for warm-up.
        device: `cpu` or `cuda`.
        root: Folder with the uncompressed files of MNIST/raw and sst2.
    """

    network: str
    pipeline: str
    epochs: int
    device: str
    root: Path

    @property
    def batch_size(self) -> int:
        """Samples per optimizer step."""
        return NETWORKS[self.network].batch_size

    @property
    def config(self) -> str:
        """Name of the shipped config with this network."""
        return NETWORKS[self.network].config


class Timer:
    """Measures the first step, the epochs and the peak memory of one process.

    Args:
        launched: `time.time()` when the process was started.
        device: Device to synchronize with, `cpu` or `cuda`.
    """

    def __init__(self, launched: float, device: str) -> None:
        self.launched, self.device = launched, device
        self.first_step: float | None = None
        self.epochs: list[float] = []
        self.peak_bytes = 0
        self._epoch_start: float | None = None
        self._hook = None

    def hook_optimizers(self) -> None:
        """Call `end_step` after each step of any torch optimizer, until the first epoch ends."""
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self._hook = register_optimizer_step_post_hook(self.end_step)

    def end_step(self, *_: object) -> None:
        """Record the seconds from the launch to the end of the first optimizer step."""
        if self.first_step is None:
            self._synchronize()
            self.first_step = time.time() - self.launched

    def end_epoch(self) -> None:
        """Record the seconds since the end of the previous epoch, and the peak memory."""
        self._synchronize()
        now = time.perf_counter()
        if self._epoch_start is not None:
            self.epochs.append(now - self._epoch_start)
        if self._hook is not None:
            self._hook.remove()
        self._epoch_start, self._hook = now, None
        self.peak_bytes = self._peak_memory()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of a block from the epoch."""
        self._synchronize()
        start = time.perf_counter()
        yield
        self._synchronize()
        if self._epoch_start is not None:
            self._epoch_start += time.perf_counter() - start

    def _synchronize(self) -> None:
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()

    def _peak_memory(self) -> int:
        import torch

        from dltrain.training.device import peak_memory_bytes

        return peak_memory_bytes(torch.device(self.device))
