"""Live output of a training run in a notebook: progress, curves and log lines below the cell."""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from dltrain.loggers.jsonl import Scalars
from dltrain.loggers.progress import Progress
from dltrain.reporting.charts import standalone_line_chart
from dltrain.reporting.curves import curves
from dltrain.reporting.html import escape

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

SECONDS_BETWEEN_UPDATES = 1.0
"""Drawing takes a few milliseconds, and a notebook can't follow much faster."""

MAX_CHARTS = 4
MAX_LINES = 8


def in_kernel() -> bool:
    """Return whether this process is the kernel of a notebook, and not IPython on a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class NotebookProgress(Progress):
    """Show progress, training and validation curves, and the last log lines below a cell.

    Args:
        log: File that receives the log lines as well.
    """

    def __init__(self, log: TextIO) -> None:
        super().__init__(log, quiet=True)
        self._scalars: dict[str, Scalars] = {}
        self._lines: list[str] = []
        self._step, self._status = 0, "training"
        self._handle: DisplayHandle | None = None
        self._last_update, self._start = 0.0, (0.0, 0)

    def on_fit_start(self, step: int, total_steps: int, batch_size: int) -> None:
        """Create the output below the cell."""
        super().on_fit_start(step, total_steps, batch_size)
        self._step, self._start = step, (time.monotonic(), step)
        self._draw()

    def on_step_end(self, step: int) -> None:
        """Update the output if the last update is old enough."""
        self._step = step
        if time.monotonic() - self._last_update >= SECONDS_BETWEEN_UPDATES:
            self._draw()

    def log_scalars(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Add the values to the curves."""
        super().log_scalars(step, epoch, split, values)
        for name, value in values.items():
            # A value that is not finite interrupts the curve.
            point = (step, value if abs(value) < float("inf") else None)
            self._scalars.setdefault(f"{split}/{name}", []).append(point)

    def log_message(self, text: str) -> None:
        """Add a line to the output."""
        super().log_message(text)
        self._lines.append(text)

    def on_fit_end(self, status: str) -> None:
        """Show the status instead of the remaining time."""
        self._status = status

    def close(self) -> None:
        """Draw the final state."""
        super().close()
        if self._handle is not None:
            self._draw()

    def _draw(self) -> None:
        from IPython.display import HTML, DisplayHandle

        self._last_update = time.monotonic()
        if self._handle is None:
            self._handle = DisplayHandle()
            self._handle.display(HTML(self._html()))
        else:
            self._handle.update(HTML(self._html()))

    def _html(self) -> str:
        charts = {
            title: series
            for title, series in curves(self._scalars).items()
            if "loss" in title or any(line.name == "validation" for line in series)
        }
        shown = [
            _image(title, standalone_line_chart(title, series))
            for title, series in charts.items()
            if any(y is not None for line in series for _, y in line.points)
        ][:MAX_CHARTS]
        lines = escape("\n".join(self._lines[-MAX_LINES:]))
        bar = f'<progress value="{self._step}" max="{self._total_steps}"></progress>'
        return f"<div>{bar} {escape(self._status_line())}</div>{''.join(shown)}<pre>{lines}</pre>"

    def _status_line(self) -> str:
        progress = f"step {self._step:,} of {self._total_steps:,}"
        if self._status != "training":
            return f"{self._status} at {progress}"
        start_time, start_step = self._start
        seconds = time.monotonic() - start_time
        if self._step > start_step:
            remaining = (self._total_steps - self._step) * seconds / (self._step - start_step)
            progress += f", about {remaining:.0f} s left"
        return progress


def _image(title: str, svg: str) -> str:
    data = base64.b64encode(svg.encode()).decode()
    return (
        f'<img alt="{escape(title)}" style="display:inline-block;margin:4px" '
        f'src="data:image/svg+xml;base64,{data}">'
    )
