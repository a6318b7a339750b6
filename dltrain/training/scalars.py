"""Training scalars, throughput, and the last value of every scalar."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import torch

from dltrain.config.settings import TrainSettings
from dltrain.core.task import Task
from dltrain.loggers.base import Logger
from dltrain.training.device import peak_memory_bytes
from dltrain.training.monitoring import loss_name
from dltrain.training.state import TrainerState


class Throughput:
    """Counts training samples, and measures how many are processed per second.

    Args:
        num_samples: Number of samples in the training split.
        settings: Settings of training.
    """

    def __init__(self, num_samples: int, settings: TrainSettings) -> None:
        self.batch_size: int = settings.batch_size
        self.steps_per_epoch: int = settings.steps_per_epoch(num_samples)
        self.samples_per_epoch: int = min(num_samples, self.steps_per_epoch * self.batch_size)
        self.restart(0)

    def samples_after(self, step: int) -> int:
        """Return the number of samples in the first `step` steps."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        rest = min(steps * self.batch_size, self.samples_per_epoch)
        return epochs * self.samples_per_epoch + rest

    def restart(self, step: int) -> None:
        """Start a measurement after `step` steps."""
        self._started, self._step = time.perf_counter(), step

    def measure(self, step: int) -> float:
        """Return the samples per second since the measurement was started, and start another."""
        started, first = self._started, self._step
        self.restart(step)
        samples = self.samples_after(step) - self.samples_after(first)
        return samples / (self._started - started)


class ScalarLog:
    """Sends scalars to the loggers, and keeps the last value of each in the trainer's state.

    Args:
        task: Task with the phases and the optimizers.
        loggers: Loggers that receive the scalars.
        throughput: Measures the samples per second.
        device: Device whose peak memory is logged.
        settings: Settings of training.
    """

    def __init__(
        self,
        task: Task,
        loggers: Sequence[Logger],
        throughput: Throughput,
        device: torch.device,
        settings: TrainSettings,
    ) -> None:
        self.task = task
        self.loggers = loggers
        self.throughput = throughput
        self.device = device
        self.settings = settings

    def log(self, state: TrainerState, split: str, values: Mapping[str, float]) -> None:
        """Log scalars of a split, or of the `system`, at the current step."""
        for name, value in values.items():
            state.last[f"{split}/{name}"] = value if math.isfinite(value) else None
        epoch = state.step / self.throughput.steps_per_epoch
        for logger in self.loggers:
            logger.log_scalars(state.step, epoch, split, values)

    def log_training(self, state: TrainerState) -> None:
        """Log the training scalars since the last call, throughput and memory. Device sync."""
        values = self._take_training_scalars(state)
        if self.settings.on_nonfinite == "skip":
            self._report_skipped(state)
            values["skipped_steps"] = state.skipped
        self.log(state, "train", values)
        system = {
            "samples_per_second": self.throughput.measure(state.step),
            "peak_memory_bytes": peak_memory_bytes(self.device),
        }
        self.log(state, "system", system)

    def _take_training_scalars(self, state: TrainerState) -> dict[str, float]:
        """Return mean loss, last gradient norm and learning rate per phase; restart the sums."""
        values = {}
        for phase in self.task.phases:
            loss, weight, norm = state.take(phase.name)  # device sync
            name = loss_name(self.task, phase)
            if weight:
                values[name] = loss / weight
                values[name.replace("loss", "gradient_norm")] = norm
            rate = phase.optimizers[0].param_groups[0]["lr"]
            values[name.replace("loss", "learning_rate")] = rate
        return values

    def _report_skipped(self, state: TrainerState) -> None:
        skipped = state.skipped - int(state.last.get("train/skipped_steps") or 0)
        if skipped > 0:
            text = (
                f"step {state.step}: skipped {skipped} steps since the last report, "
                f"{state.skipped} in all: the loss or its gradient was not finite"
            )
            for logger in self.loggers:
                logger.log_message(text)
