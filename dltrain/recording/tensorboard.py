"""TensorBoard: the same scalars as metrics.jsonl, and the pages."""

from __future__ import annotations

import io
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from dltrain.recording.base import Recorder
from dltrain.task import Page, Task

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


MOST_FILE_BYTES = 64 * 2**20
"""An event file that has grown beyond is followed by another at the next checkpoint."""


class TensorBoard(Recorder):
    """Writes event files.

    Args:
        directory: Where.
        config: The resolved YAML, shown as text.
        hyperparameters: Flat; shown beside the final metrics in the HParams table.
        example: Gives inputs of one sample, (1, *input_shape), to draw the model's graph with.
        histograms: Whether to write histograms of the weights at each evaluation.
    """

    def __init__(
        self,
        directory: Path,
        config: str,
        hyperparameters: Mapping[str, Any],
        example: Callable[[], Tensor],
        histograms: bool = False,
    ) -> None:
        self._directory, self._config, self._example = directory, config, example
        self._hyperparameters, self._histograms = hyperparameters, histograms
        self._writer: SummaryWriter | None = None
        self._introduced = False
        self._last: dict[str, float] = {}
        self._excepthook = threading.excepthook

    @property
    def writer(self) -> SummaryWriter:
        """Made at the first use: importing TensorBoard takes longer than many a first step."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            threading.excepthook = self._thread_failed
            with _clock_not_before(self._newest_second() + 1):
                self._writer = SummaryWriter(str(self._directory))
        return self._writer

    def scalars(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Writes each under SPLIT/NAME."""
        for name, value in values.items():
            self.writer.add_scalar(f"{split}/{name}", value, step)
            if split in ("val", "test"):
                self._last.pop(f"{split}/{name}", None)
                if math.isfinite(value):  # checkpoints hold it, as JSON
                    self._last[f"{split}/{name}"] = value

    def evaluated(self, step: int, split: str, task: Task) -> None:
        """Writes what the task has to show, and histograms of the weights where wanted."""
        if not self._introduced:
            self.writer.add_text("config", f"```yaml\n{self._config}\n```", 0)
            self._graph(task.model)
            self._introduced = True
        for page in task.pages():
            self._write(f"{split}/{page.tag}", page, step)
        if self._histograms:
            for name, parameter in task.model.named_parameters():
                self.writer.add_histogram(f"weights/{name}", parameter.detach(), step)

    def _write(self, tag: str, page: Page, step: int) -> None:
        match page.kind:
            case "image":
                self.writer.add_image(tag, page.content, step)
            case "pr_curve":
                counts = page.content
                self.writer.add_pr_curve_raw(
                    tag, *counts, global_step=step, num_thresholds=counts.shape[1]
                )
            case "text":
                self.writer.add_text(tag, page.content, step)

    def _graph(self, model: nn.Module) -> None:
        training = model.training
        model.eval()
        try:
            # add_graph() prints an error before it raises it.
            with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                self.writer.add_graph(model, self._example())
        except Exception as error:  # a user's model may raise anything while it is traced
            self.writer.add_text("graph", f"This model can't be traced: {error}", 0)
        finally:
            model.train(training)

    def position(self) -> dict[str, Any]:
        """The event files' lengths."""
        if self._writer is not None:
            self._writer.flush()
        lengths = {path.name: path.stat().st_size for path in self._event_files()}
        # The last file is the writer's; the others may be as long as they were.
        if self._writer is not None and lengths[max(lengths)] > MOST_FILE_BYTES:
            self._writer.close()
            self._writer = None  # the next scalar begins another file
        return {"bytes": lengths, "introduced": self._introduced, "last": dict(self._last)}

    def sync(self) -> None:
        """Flushes the event files to the disk."""
        for path in self._event_files():
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def restore(self, position: Mapping[str, Any]) -> None:
        """Cuts off what was written after the checkpoint; what follows goes to a new file."""
        for path in self._event_files():
            if path.name in position["bytes"]:
                os.truncate(path, min(path.stat().st_size, position["bytes"][path.name]))
            else:
                path.unlink()
        self._introduced = position["introduced"]
        self._last = dict(position["last"])

    def _event_files(self) -> list[Path]:
        return sorted(self._directory.glob("events.out.tfevents.*"))

    def _newest_second(self) -> int:
        """When the last event file was begun; its name has it."""
        seconds = [path.name.split(".")[3] for path in self._event_files()]
        return max((int(second) for second in seconds if second.isdecimal()), default=-1)

    def close(self) -> None:
        """Writes the row of the HParams table, then closes."""
        from torch.utils.tensorboard.summary import hparams

        try:
            if self._last:
                writer = self.writer.file_writer
                assert writer is not None
                # add_hparams() would open a second event file, and a second run in the list.
                for summary in hparams(dict(self._hyperparameters), self._last):
                    writer.add_summary(summary)
            if self._writer is not None:
                self._writer.close()
        finally:
            threading.excepthook = self._excepthook

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """The writer's thread keeps a full disk's error for our next call; it need not print it."""
        if not isinstance(failure.exc_value, OSError):
            self._excepthook(failure)


@contextmanager
def _clock_not_before(second: int) -> Iterator[None]:
    """A file that is begun inside this context sorts behind those that are there.

    TensorBoard reads event files in the order of their names, which begin with the time, and drops
    what it has read where a later file goes back to an earlier step. A clock that was set back, or
    two files in one second, would so hide a part of the run.
    """
    real = time.time
    if real() >= second:
        yield
        return
    time.time = lambda: float(second)
    try:
        yield
    finally:
        time.time = real
