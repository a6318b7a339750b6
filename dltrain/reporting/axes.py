"""Axes of a chart: round numbers as ticks, and the pixels of values."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dltrain.reporting.html import escape

WIDTH, HEIGHT = 360, 216
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 12, 40

MAX_AXIS_VALUE = 1e300
"""Larger values are drawn at the edge: the difference of two of them may overflow."""


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers that enclose two values, in steps of 1, 2 or 5 times a power of ten.

    Ticks stay between 0 and 1 where both values do, as a fraction such as an accuracy does.
    Values beyond `MAX_AXIS_VALUE` lie outside.
    """
    low, high = (min(max(end, -MAX_AXIS_VALUE), MAX_AXIS_VALUE) for end in (low, high))
    is_fraction = 0 <= low <= high <= 1
    if high - low <= max(1e-12 * max(abs(low), abs(high)), 1 / MAX_AXIS_VALUE):
        margin = abs(low) * 0.1 if abs(low) > 1e-290 else 1.0
        low, high = low - margin, high + margin
    if is_fraction:
        low, high = max(low, 0.0), min(high, 1.0)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


class Axes:
    """A mapping of values to pixels.

    Args:
        xs: Values along the horizontal axis.
        ys: Values along the vertical axis.
        tight: Whether the horizontal axis ends at the outermost values, and not at round numbers.
    """

    def __init__(self, xs: Sequence[float], ys: Sequence[float], *, tight: bool = False) -> None:
        self.x_ticks: list[float] = ticks(min(xs), max(xs))
        self.y_ticks: list[float] = ticks(min(ys), max(ys))
        self._low, self._high = self.x_ticks[0], self.x_ticks[-1]
        if tight and min(xs) < max(xs):
            self._low, self._high = min(xs), max(xs)
            self.x_ticks = [value for value in self.x_ticks if self._low <= value <= self._high]
        if tight and all(float(value).is_integer() for value in xs):  # there is no step 7.5
            self.x_ticks = [value for value in self.x_ticks if float(value).is_integer()]

    def x(self, value: float) -> float:
        """Return the horizontal pixel of a value."""
        value = min(max(value, self._low), self._high)
        return LEFT + (value - self._low) / (self._high - self._low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Return the vertical pixel of a value."""
        low, high = self.y_ticks[0], self.y_ticks[-1]
        value = min(max(value, low), high)
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def path(self, points: Sequence[tuple[float, float | None]]) -> str:
        """Return a line through the points, interrupted where a value is None."""
        commands, pen = [], "M"
        for x, y in points:
            if y is None:
                pen = "M"
                continue
            commands.append(f"{pen}{self.x(x):.1f} {self.y(y):.1f}")
            pen = "L"
        return "".join(commands)

    def draw(self, x_label: str, y_label: str = "") -> str:
        """Return grid lines, tick labels and axis labels."""
        drawn = []
        for value in self.y_ticks:
            y = self.y(value)
            drawn.append(
                f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
                f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
                f"{tick_label(value)}</text>"
            )
        drawn += [
            f'<text x="{self.x(value):.1f}" y="{HEIGHT - BOTTOM + 16}" '
            f'text-anchor="middle">{tick_label(value)}</text>'
            for value in self.x_ticks
        ]
        middle = (LEFT + WIDTH - RIGHT) / 2
        drawn.append(
            f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
        )
        if y_label:
            upright = (HEIGHT - BOTTOM + TOP) / 2
            drawn.append(
                f'<text transform="translate(14 {upright}) rotate(-90)" '
                f'text-anchor="middle">{escape(y_label)}</text>'
            )
        return "".join(drawn)


def tick_label(value: float) -> str:
    """Format a number for an axis: 20000 becomes 20k."""
    if abs(value) >= 1e12:
        return f"{value:.2g}".replace("e+", "e")
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:.4g}" if value else "0"


def diagonal(axes: Axes, low: float, high: float) -> str:
    """Draw the line on which both values are equal."""
    points = f"M{axes.x(low):.1f} {axes.y(low):.1f}L{axes.x(high):.1f} {axes.y(high):.1f}"
    return f'<path class="ideal" d="{points}"/>'
