"""The interface between the trainer and its loggers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dltrain.core.task import Embedding, Task


class Logger:
    """Base class of objects that receive metrics and events. Its methods do nothing.

    A checkpoint contains the position of each logger under the name of its class.

    Example:
        >>> class Printer(Logger):
        ...     def log_scalars(self, step, epoch, split, values):
        ...         print(step, split, values)
        >>> Printer().log_scalars(50, 0.5, "train", {"loss": 0.25})
        50 train {'loss': 0.25}
    """

    def on_fit_start(self, step: int, total_steps: int, batch_size: int) -> None:
        """Training starts or resumes after `step` of `total_steps` steps."""

    def on_step_end(self, step: int) -> None:
        """A step is complete. Called for every step, so an implementation must be fast."""

    def log_scalars(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Receive scalars of a split: `train`, `val`, `test`, or `system` (time and memory)."""

    def on_evaluation_end(self, step: int, split: str, task: Task) -> None:
        """An evaluation is complete: its scalars are logged, `task.figures()` shows more."""

    def log_embedding(self, step: int, embedding: Embedding) -> None:
        """Receive points for samples of the test split, computed by the tested model."""

    def on_fit_end(self, status: str) -> None:
        """Training has ended with this status, and `summary.json` has been written."""

    def log_message(self, text: str) -> None:
        """Receive a line of text for the user."""

    def position(self) -> dict[str, Any]:
        """Flush buffers, and return the JSON-serializable position that `restore` needs."""
        return {}

    def sync(self) -> None:
        """Flush to the disk everything up to `position`. Called by another thread."""

    def restore(self, position: Mapping[str, Any]) -> None:
        """Discard everything that was logged after `position`."""

    def close(self) -> None:
        """Release files and other resources. No other method is called afterwards."""
