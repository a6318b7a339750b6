"""TensorBoard: the scalars of metrics.jsonl, and the figures of the task."""

from __future__ import annotations

import io
import math
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired

import numpy
from torch import Tensor
from typing_extensions import TypedDict

from dltrain.checkpoints.atomic_files import regular, remove
from dltrain.checkpoints.untrusted_json import Count, validated
from dltrain.core.batch import Batch
from dltrain.core.errors import escape_control_characters
from dltrain.core.task import Embedding, Figure, Task
from dltrain.loggers.base import Logger

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


MAX_FILE_BYTES = 64 * 2**20
"""A larger event file is followed by a new one at the next checkpoint."""

MAX_SPRITE_PIXELS = 8192
MAX_THUMBNAIL_PIXELS = 64


class _Position(TypedDict):
    bytes: dict[str, Count]
    introduced: bool
    in_table: NotRequired[bool]  # earlier versions added the run at its end


class TensorBoard(Logger):
    """Write event files for TensorBoard.

    Args:
        directory: Directory of the event files.
        config: The resolved config, YAML, shown in the Text tab.
        hyperparameters: Columns of the HParams table, beside the last value of each scalar.
        example: Returns a batch of one sample, with which the model's graph is traced.
        histograms: Whether to write histograms of the weights at each evaluation.
    """

    def __init__(
        self,
        directory: Path,
        config: str,
        hyperparameters: Mapping[str, Any],
        example: Callable[[], Batch],
        histograms: bool = False,
    ) -> None:
        self._directory, self._config, self._example = directory, config, example
        self._hyperparameters, self._histograms = hyperparameters, histograms
        self._writer: SummaryWriter | None = None
        self._in_table, self._introduced = False, False
        self._status: str | None = None
        self._excepthook = threading.excepthook

    @property
    def writer(self) -> SummaryWriter:
        """The event writer, created at its first use because importing TensorBoard is slow."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            threading.excepthook = self._thread_failed
            with _clock_not_before(self._newest_second() + 1):
                self._writer = SummaryWriter(str(self._directory))
        return self._writer

    def log_scalars(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Write each scalar under the tag SPLIT/NAME, or train/NAME for the split `system`.

        TensorBoard sorts groups of tags by name: `system` would be the first of all.
        """
        from torch.utils.tensorboard.summary import scalar

        if not values:
            return
        if not self._in_table:
            self._add_to_table("session_start_info")
            self._in_table = True
        group = "train" if split == "system" else split
        # One event for all values: `add_scalar` writes one per value and takes three times as long.
        merged, *others = (
            scalar(escape_control_characters(f"{group}/{name}"), v) for name, v in values.items()
        )
        for other in others:
            merged.MergeFrom(other)
        self._add(merged, step)

    def _add(self, summary: Any, step: int | None = None) -> None:
        writer = self.writer.file_writer
        assert writer is not None
        writer.add_summary(summary, step)

    def _add_to_table(self, part: str) -> None:
        """Write the start or the end of the run's row in the HParams table.

        TensorBoard finds the scalars of the row itself. `add_hparams` would open a second event
        file, and so add a second run to the list. It would also write a list of columns, and
        TensorBoard uses the list of the first run only: options of other runs would be missing.
        Without a list, it collects the columns from all runs.
        """
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(dict(self._hyperparameters), {}):
            if summary.value[0].tag.endswith(part):
                self._add(summary)

    def on_evaluation_end(self, step: int, split: str, task: Task) -> None:
        """Write the figures of the task, and histograms of the weights if configured."""
        if not self._introduced:
            self.writer.add_text("config", f"```yaml\n{self._config}\n```", 0)
            self._graph(task)
            self.writer.add_custom_scalars(charts(task))
            self._introduced = True
        for figure in task.figures():
            self._write(f"{split}/{figure.tag}", figure, step)
        if self._histograms:
            for name, parameter in task.model.named_parameters():
                self.writer.add_histogram(f"weights/{name}", parameter.detach(), step)

    def _write(self, tag: str, figure: Figure, step: int) -> None:
        tag = escape_control_characters(tag)  # the name of a class may contain control characters
        match figure.kind:
            case "image":
                self.writer.add_image(tag, figure.content, step)
            case "pr_curve":
                counts = figure.content
                self.writer.add_pr_curve_raw(
                    tag, *counts, global_step=step, num_thresholds=counts.shape[1]
                )
            case "text":
                self.writer.add_text(tag, escape_control_characters(figure.content), step)

    def log_embedding(self, step: int, embedding: Embedding) -> None:
        """Write the files of the projector, in place of those of an earlier test of the run."""
        for folder in self._directory.glob("[0-9]*/test"):
            remove(folder)
        # A cell must not contain tabs or line breaks, which separate cells and lines.
        head, *rows = [
            [escape_control_characters(" ".join(text.split())) for text in row]
            for row in (embedding.columns, *embedding.rows)
        ]
        # Five digits suffice for a plot; the file would be three times as long with all digits.
        digits = [[float(f"{number:.5g}") for number in row] for row in embedding.points.tolist()]
        self.writer.add_embedding(
            numpy.array(digits),
            metadata=rows,
            metadata_header=head,
            label_img=None if embedding.images is None else _thumbnails(embedding.images),
            global_step=step,
            tag="test",
        )

    def on_fit_end(self, status: str) -> None:
        """Keep the status for the HParams table."""
        self._status = status

    def _graph(self, task: Task) -> None:
        model = task.model
        training = model.training
        model.eval()
        try:
            # add_graph() prints an error before it raises it.
            with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                self.writer.add_graph(model, task.arguments(self._example()))
        except Exception as error:  # a user's model may raise anything while it is traced
            self.writer.add_text(
                "graph", escape_control_characters(f"The model can't be traced: {error}"), 0
            )
        finally:
            model.train(training)

    def position(self) -> dict[str, Any]:
        """Return the lengths of the event files."""
        if self._writer is not None:
            self._writer.flush()
        lengths = {path.name: path.stat().st_size for path in self._event_files()}
        # The last file belongs to the writer; the others do not grow.
        if self._writer is not None and lengths[max(lengths)] > MAX_FILE_BYTES:
            self._writer.close()
            self._writer = None  # the next scalar creates another file
        return {"bytes": lengths, "introduced": self._introduced, "in_table": self._in_table}

    def sync(self) -> None:
        """Flush the event files to the disk."""
        for path in self._event_files():
            with open(path, "rb", opener=regular) as file:
                os.fsync(file.fileno())

    def restore(self, position: Mapping[str, Any]) -> None:
        """Truncate the files to their lengths at the checkpoint; later events go to a new file."""
        validated(position, _Position)
        for path in self._event_files():
            if path.name in position["bytes"]:
                with open(path, "r+b", opener=regular) as file:
                    length = os.fstat(file.fileno()).st_size
                    file.truncate(min(length, position["bytes"][path.name]))
            else:
                path.unlink()
        self._introduced = position["introduced"]
        self._in_table = position.get("in_table", False)

    def _event_files(self) -> list[Path]:
        return sorted(self._directory.glob("events.out.tfevents.*"))

    def _newest_second(self) -> int:
        """Return the creation time of the newest event file, which its name contains."""
        seconds = [path.name.split(".")[3] for path in self._event_files()]
        return max((int(second) for second in seconds if second.isdecimal()), default=-1)

    def close(self) -> None:
        """Complete the row of the HParams table if the run has ended, then close the files."""
        try:
            if self._status in ("done", "pruned"):
                self._add_to_table("session_end_info")
            if self._writer is not None:
                self._writer.close()
        finally:
            threading.excepthook = self._excepthook

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Do not print an OSError of the writer's thread: the next call of the writer raises it."""
        if not isinstance(failure.exc_value, OSError):
            self._excepthook(failure)


def charts(task: Task) -> dict[str, dict[str, list[Any]]]:
    """Return the layout of the Custom Scalars tab: one chart per metric, with all splits.

    TensorBoard merges the layouts of several runs if they have the same categories, so every layout
    contains all of them. A chart selects its lines by regular expressions.
    """
    metrics = {}
    for name in task.scalars:
        metrics[name] = [f"{split}/{re.escape(name)}$" for split in ("train", "val", "test")]
    optimization = {name: [rf"train/(\w+_)?{name}$"] for name in ("learning_rate", "gradient_norm")}
    system = {name: [f"train/{name}$"] for name in ("samples_per_second", "peak_memory_bytes")}
    categories = {"metrics": metrics, "optimization": optimization, "system": system}
    return {
        category: {name: ["Multiline", tags] for name, tags in lines.items()}
        for category, lines in categories.items()
    }


def _thumbnails(images: Tensor) -> Tensor:
    """Return images for the projector, (samples, 3, side, side) in [0, 1], padded with black.

    The projector combines them in one image, of at most `MAX_SPRITE_PIXELS` per side in a browser.
    """
    from torch.nn.functional import interpolate, pad

    scaled, longest = images.float() / 255, max(images.shape[2:])
    most = min(MAX_THUMBNAIL_PIXELS, MAX_SPRITE_PIXELS // math.ceil(math.sqrt(len(images))))
    if longest > most:
        size = [max(1, side * most // longest) for side in images.shape[2:]]
        scaled = interpolate(scaled, size, mode="area")
    height, width = scaled.shape[2:]
    side = max(height, width)  # torch's sprites must be square
    left, top = (side - width) // 2, (side - height) // 2
    return pad(scaled, (left, side - width - left, top, side - height - top))


@contextmanager
def _clock_not_before(second: int) -> Iterator[None]:
    """Give an event file that is created in this context a name that sorts after the others.

    TensorBoard reads event files sorted by name, which begins with the time, and discards earlier
    events if a later file goes back to an earlier step. So a part of the run would be hidden if the
    clock was set back, or if two files were created in the same second.
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
