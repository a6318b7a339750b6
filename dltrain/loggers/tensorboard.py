"""TensorBoard: the same scalars as metrics.jsonl, and the pages."""

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
from dltrain.checkpoints.untrusted_files import Count, checked
from dltrain.core.batch import Batch
from dltrain.core.errors import visible
from dltrain.core.task import Embedding, Page, Task
from dltrain.loggers.base import Recorder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


MOST_FILE_BYTES = 64 * 2**20
"""An event file that has grown beyond is followed by another at the next checkpoint."""

MOST_SPRITE_PIXELS = 8192
MOST_THUMBNAIL_PIXELS = 64


class _Position(TypedDict):
    bytes: dict[str, Count]
    introduced: bool
    in_table: NotRequired[bool]  # earlier versions wrote it at the end


class TensorBoard(Recorder):
    """Writes event files.

    Args:
        directory: Where.
        config: The resolved YAML, shown as text.
        hyperparameters: Flat; shown beside the last scalars in the HParams table.
        example: Gives a batch of one sample, to draw the model's graph with.
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
        """Made at the first use: importing TensorBoard takes longer than many a first step."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            threading.excepthook = self._thread_failed
            with _clock_not_before(self._newest_second() + 1):
                self._writer = SummaryWriter(str(self._directory))
        return self._writer

    def scalars(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Writes each under SPLIT/NAME."""
        from torch.utils.tensorboard.summary import scalar

        if not values:
            return
        if not self._in_table:
            self._add_to_table("session_start_info")
            self._in_table = True
        # One event of all: `add_scalar` makes one of each value, which takes three times as long.
        all_of_them, *others = (scalar(visible(f"{split}/{name}"), v) for name, v in values.items())
        for other in others:
            all_of_them.MergeFrom(other)
        self._add(all_of_them, step)

    def _add(self, summary: Any, step: int | None = None) -> None:
        writer = self.writer.file_writer
        assert writer is not None
        writer.add_summary(summary, step)

    def _add_to_table(self, part: str) -> None:
        """The HParams table has a row for each run that is begun, and finds its scalars itself.

        `add_hparams` would open a second event file, and a second run in the list. It would also
        name the columns, and TensorBoard takes the names that the first run of all gives: options
        that only another run has would have no column. Without names it gathers those of all runs.
        """
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(dict(self._hyperparameters), {}):
            if summary.value[0].tag.endswith(part):
                self._add(summary)

    def evaluated(self, step: int, split: str, task: Task) -> None:
        """Writes what the task has to show, and histograms of the weights where wanted."""
        if not self._introduced:
            self.writer.add_text("config", f"```yaml\n{self._config}\n```", 0)
            self._graph(task)
            self.writer.add_custom_scalars(charts(task))
            self._introduced = True
        for page in task.pages():
            self._write(f"{split}/{page.tag}", page, step)
        if self._histograms:
            for name, parameter in task.model.named_parameters():
                self.writer.add_histogram(f"weights/{name}", parameter.detach(), step)

    def _write(self, tag: str, page: Page, step: int) -> None:
        tag = visible(tag)  # a class may have any name
        match page.kind:
            case "image":
                self.writer.add_image(tag, page.content, step)
            case "pr_curve":
                counts = page.content
                self.writer.add_pr_curve_raw(
                    tag, *counts, global_step=step, num_thresholds=counts.shape[1]
                )
            case "text":
                self.writer.add_text(tag, visible(page.content), step)

    def embedded(self, step: int, embedding: Embedding) -> None:
        """Writes the files of the projector, over those of an earlier test of the same run."""
        for folder in self._directory.glob("[0-9]*/test"):
            remove(folder)
        # A cell must not hold what parts cells and lines.
        head, *rows = [
            [visible(" ".join(text.split())) for text in row]
            for row in (embedding.columns, *embedding.rows)
        ]
        # Five digits are more than can be seen, and a file of all would be three times as long.
        digits = [[float(f"{number:.5g}") for number in row] for row in embedding.points.tolist()]
        self.writer.add_embedding(
            numpy.array(digits),
            metadata=rows,
            metadata_header=head,
            label_img=None if embedding.pictures is None else _thumbnails(embedding.pictures),
            global_step=step,
            tag="test",
        )

    def ended(self, status: str) -> None:
        """Keeps it for the HParams table."""
        self._status = status

    def _graph(self, task: Task) -> None:
        model, arguments = task.model, getattr(task, "arguments", None)
        training = model.training
        model.eval()
        try:
            # add_graph() prints an error before it raises it.
            with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                batch = self._example()
                inputs = batch.inputs if arguments is None else arguments(batch)
                self.writer.add_graph(model, inputs)
        except Exception as error:  # a user's model may raise anything while it is traced
            self.writer.add_text("graph", visible(f"This model can't be traced: {error}"), 0)
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
        return {"bytes": lengths, "introduced": self._introduced, "in_table": self._in_table}

    def sync(self) -> None:
        """Flushes the event files to the disk."""
        for path in self._event_files():
            with open(path, "rb", opener=regular) as file:
                os.fsync(file.fileno())

    def restore(self, position: Mapping[str, Any]) -> None:
        """Cuts off what was written after the checkpoint; what follows goes to a new file."""
        checked(position, _Position)
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
        """When the last event file was begun; its name has it."""
        seconds = [path.name.split(".")[3] for path in self._event_files()]
        return max((int(second) for second in seconds if second.isdecimal()), default=-1)

    def close(self) -> None:
        """Ends the row of the HParams table of a run that will not go on, then closes."""
        try:
            if self._status in ("done", "pruned"):
                self._add_to_table("session_end_info")
            if self._writer is not None:
                self._writer.close()
        finally:
            threading.excepthook = self._excepthook

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """The writer's thread keeps a full disk's error for our next call; it need not print it."""
        if not isinstance(failure.exc_value, OSError):
            self._excepthook(failure)


def charts(task: Task) -> dict[str, dict[str, list[Any]]]:
    """The Custom Scalars tab: the values of one metric on training, validation and test together.

    TensorBoard merges the layouts of runs well where they have the same categories, so all are
    always there. A chart names its lines by regular expressions.
    """
    metrics = {}
    for name in task.scalars:
        metrics[name] = [f"{split}/{re.escape(name)}$" for split in ("train", "val", "test")]
    optimisation = {name: [rf"train/(\w+_)?{name}$"] for name in ("learning_rate", "gradient_norm")}
    system = {name: [f"system/{name}$"] for name in ("samples_per_second", "peak_memory_bytes")}
    categories = {"metrics": metrics, "optimisation": optimisation, "system": system}
    return {
        category: {name: ["Multiline", tags] for name, tags in lines.items()}
        for category, lines in categories.items()
    }


def _thumbnails(pictures: Tensor) -> Tensor:
    """Pictures for the projector, (samples, 3, side, side) in [0, 1], on black where not square.

    It shows them all from one picture, which browsers take up to `MOST_SPRITE_PIXELS` a side.
    """
    from torch.nn.functional import interpolate, pad

    shown, longest = pictures.float() / 255, max(pictures.shape[2:])
    room = min(MOST_THUMBNAIL_PIXELS, MOST_SPRITE_PIXELS // math.ceil(math.sqrt(len(pictures))))
    if longest > room:
        size = [max(1, side * room // longest) for side in pictures.shape[2:]]
        shown = interpolate(shown, size, mode="area")
    height, width = shown.shape[2:]
    side = max(height, width)  # torch's sprites have no room for pictures that are tall
    left, top = (side - width) // 2, (side - height) // 2
    return pad(shown, (left, side - width - left, top, side - height - top))


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
