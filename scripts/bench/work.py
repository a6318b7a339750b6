"""What is trained, who trains it, and what is measured; needs no torch."""

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
        config: The shipped config that it is from.
        title: In the table.
        batch_size: Samples an optimizer step.
        epochs: Counted ones, after one that is not.
        floor: A row whose accuracy is below has not learned, and does not count.
    """

    config: str
    title: str
    batch_size: int
    epochs: int
    floor: float


NETWORKS = {
    "mnist_mlp": Network("mnist_mlp", "MNIST, 784-128-10", 128, 3, 0.95),
    "mnist_mlp_32": Network("mnist_mlp", "MNIST, 784-128-10", 32, 1, 0.95),
    "mnist_cnn": Network("mnist_cnn", "MNIST, convolutions of 32 and 64", 128, 1, 0.97),
    "sst2_lstm": Network("sst2_lstm", "SST-2, bidirectional LSTM", 128, 2, 0.6),
}


@dataclass(frozen=True)
class Competitor:
    """One way of training.

    Attributes:
        title: In the table.
        module: The file of this package whose `train` does it.
        pipeline: `tensors` in memory, or the `tutorial`'s data sets and loaders.
        package: What has to be installed, by its name on the package index; empty for torch alone.
        imports: The names that it needs to import.
        networks: Those that it takes part in.
    """

    title: str
    module: str
    pipeline: str
    package: str = ""
    imports: tuple[str, ...] = ()
    networks: tuple[str, ...] = tuple(NETWORKS)

    @property
    def is_installed(self) -> bool:
        """Whether it can take part here."""
        return all(importlib.util.find_spec(name) for name in self.imports)

    def load(self) -> ModuleType:
        """The module, with its framework."""
        return importlib.import_module(f"bench.{self.module}")


ALL = tuple(NETWORKS)
PICTURES = tuple(name for name in NETWORKS if name.startswith("mnist"))


def _framework(
    title: str,
    module: str,
    networks: tuple[str, ...],
    *,
    package: str | None = None,
    imports: tuple[str, ...] | None = None,
) -> dict[str, Competitor]:
    """A framework with its tensors in memory, and with the tutorial's pipeline."""
    some = tuple(name for name in networks if name != "mnist_mlp_32")  # there, steps count
    return {
        f"{module}-{pipeline}": Competitor(
            f"{title}, {told}", module, pipeline, package or module, imports or (module,), where
        )
        for pipeline, told, where in (
            ("tensors", "tensors", networks),
            ("tutorial", "tutorial's data", some),
        )
    }


COMPETITORS = {
    "dltrain": Competitor("dltrain", "dltrain_run", "tensors"),
    "limit": Competitor("hand-written loop, tensors", "limit", "tensors"),
    "tutorial": Competitor("tutorial's loop", "tutorial", "tutorial"),
    **_framework("Lightning", "lightning", ALL),
    **_framework("Keras 3 on torch", "keras", PICTURES),
    **_framework(
        "Hugging Face Trainer", "transformers", PICTURES, imports=("transformers", "accelerate")
    ),
    **_framework("Ignite", "ignite", ALL, package="pytorch-ignite"),
    **_framework("skorch", "skorch", PICTURES),
}


@dataclass(frozen=True)
class Work:
    """One measurement.

    Attributes:
        network: See `NETWORKS`.
        pipeline: See `Competitor`.
        epochs: All of them, the uncounted first one too.
        device: `cpu` or `cuda`.
        root: The folder that has MNIST/raw and sst2, unpacked.
    """

    network: str
    pipeline: str
    epochs: int
    device: str
    root: Path

    @property
    def batch_size(self) -> int:
        """Samples an optimizer step."""
        return NETWORKS[self.network].batch_size

    @property
    def config(self) -> str:
        """The shipped config that the network is from."""
        return NETWORKS[self.network].config


class Clock:
    """Takes the times of one process.

    Args:
        launched: `time.time()` when the process was started.
        device: What has to be waited for.
    """

    def __init__(self, launched: float, device: str) -> None:
        self.launched, self.device = launched, device
        self.first_step: float | None = None
        self.epochs: list[float] = []
        self.peak_bytes = 0
        self._lap: float | None = None
        self._hook = None

    def watch_torch(self) -> None:
        """Notes the first step of any of torch's optimizers."""
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self._hook = register_optimizer_step_post_hook(self.step)

    def step(self, *_: object) -> None:
        """Call after an optimizer step: seconds from the launch to the end of the first one."""
        if self.first_step is None:
            self._wait()
            self.first_step = time.time() - self.launched

    def lap(self) -> None:
        """Call after each training epoch: seconds since the last call, and the peak of memory."""
        self._wait()
        now = time.perf_counter()
        if self._lap is not None:
            self.epochs.append(now - self._lap)
        if self._hook is not None:
            self._hook.remove()
        self._lap, self._hook = now, None
        self.peak_bytes = self._peak()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What happens inside is no training."""
        self._wait()
        before = time.perf_counter()
        yield
        self._wait()
        if self._lap is not None:
            self._lap += time.perf_counter() - before

    def _wait(self) -> None:
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()

    def _peak(self) -> int:
        import torch

        from dltrain.training.device import peak_memory_bytes

        return peak_memory_bytes(torch.device(self.device))
