"""What the trainer tells whoever records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dltrain.core.task import Embedding, Task


class Recorder:
    """Hears of everything that happens; each method does nothing until a recorder overrides it."""

    def begin(self, step: int, total_steps: int, batch_size: int) -> None:
        """Training starts, or goes on, after `step` of `total_steps` steps."""

    def advance(self, step: int) -> None:
        """A step is done. Called for every step: must cost next to nothing."""

    def scalars(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Scalars of a split: `train`, `val`, `test`, or `system` (all that the clock decides)."""

    def evaluated(self, step: int, split: str, task: Task) -> None:
        """An evaluation is done; its scalars came before, `task.pages()` has more to show."""

    def embedded(self, step: int, embedding: Embedding) -> None:
        """Samples of the test split, as the model that was tested sees them."""

    def ended(self, status: str) -> None:
        """How the training ended, in the word of `summary.json`, which is written already."""

    def line(self, text: str) -> None:
        """Something that the user should read."""

    def position(self) -> dict[str, Any]:
        """Writes what is held back; what `restore` needs to go on from here, JSON-able."""
        return {}

    def sync(self) -> None:
        """Flushes to the disk what `position` counted. Another thread calls it."""

    def restore(self, position: Mapping[str, Any]) -> None:
        """Forgets everything recorded after `position`."""

    def close(self) -> None:
        """Nothing comes after this."""
