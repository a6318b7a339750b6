"""What a notebook shows while a run goes on: its curves, below the cell that trains."""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from dltrain.loggers.jsonl import Scalars
from dltrain.loggers.progress import Progress
from dltrain.reporting.charts import standalone_line_chart
from dltrain.reporting.html import escape
from dltrain.reporting.sections import curves

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

SECONDS_BETWEEN = 1.0
"""Drawing costs a few milliseconds, and a notebook keeps up with no more."""
MOST_CHARTS = 4
MOST_LINES = 8


def in_kernel() -> bool:
    """Whether this process is the kernel of a notebook; IPython on a terminal is none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class Live(Progress):
    """Progress, curves of training and validation, and the last lines, drawn over and over.

    Args:
        log: Where lines are kept as well.
    """

    def __init__(self, log: TextIO) -> None:
        super().__init__(log, quiet=True)
        self._scalars: dict[str, Scalars] = {}
        self._lines: list[str] = []
        self._step, self._status = 0, "training"
        self._handle: DisplayHandle | None = None
        self._drawn, self._begun = 0.0, (0.0, 0)

    def begin(self, step: int, total_steps: int, batch_size: int) -> None:
        """Makes the place below the cell."""
        super().begin(step, total_steps, batch_size)
        self._step, self._begun = step, (time.monotonic(), step)
        self._draw()

    def advance(self, step: int) -> None:
        """Draws where the last time is long ago."""
        self._step = step
        if time.monotonic() - self._drawn >= SECONDS_BETWEEN:
            self._draw()

    def scalars(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Keeps them for the curves."""
        super().scalars(step, epoch, split, values)
        for name, value in values.items():
            # What is not a number breaks a curve.
            point = (step, value if abs(value) < float("inf") else None)
            self._scalars.setdefault(f"{split}/{name}", []).append(point)

    def line(self, text: str) -> None:
        """Keeps it to be drawn."""
        super().line(text)
        self._lines.append(text)

    def ended(self, status: str) -> None:
        """Says so instead of the time that is left."""
        self._status = status

    def close(self) -> None:
        """Draws what it ended with."""
        super().close()
        if self._handle is not None:
            self._draw()

    def _draw(self) -> None:
        from IPython.display import HTML, DisplayHandle

        self._drawn = time.monotonic()
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
        ][:MOST_CHARTS]
        lines = escape("\n".join(self._lines[-MOST_LINES:]))
        bar = f'<progress value="{self._step}" max="{self._total_steps}"></progress>'
        return f"<div>{bar} {escape(self._said())}</div>{''.join(shown)}<pre>{lines}</pre>"

    def _said(self) -> str:
        said = f"step {self._step:,} of {self._total_steps:,}"
        if self._status != "training":
            return f"{self._status} at {said}"
        started, before = self._begun
        seconds = time.monotonic() - started
        if self._step > before:
            left = (self._total_steps - self._step) * seconds / (self._step - before)
            said += f", about {left:.0f} s left"
        return said


def _image(title: str, svg: str) -> str:
    data = base64.b64encode(svg.encode()).decode()
    return (
        f'<img alt="{escape(title)}" style="display:inline-block;margin:4px" '
        f'src="data:image/svg+xml;base64,{data}">'
    )
