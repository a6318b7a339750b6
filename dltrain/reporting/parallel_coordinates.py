"""Parallel coordinates: one vertical axis per dimension, one line per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dltrain.reporting.charts import figure, truncate_start
from dltrain.reporting.html import escape

WIDTH, HEIGHT = 1080, 330
MIN_AXIS_DISTANCE = 135
"""Between two axes, in pixels; a chart with more axes is wider, and scrolls."""
LEFT, RIGHT, TOP, BOTTOM = 88, 70, 34, 40
_OVER_LINES = 'style="paint-order:stroke;stroke:var(--raised);stroke-width:4px"'


@dataclass(frozen=True)
class Axis:
    """An axis of the chart.

    Attributes:
        name: Label above the axis.
        ticks: Position, from 0 at the lower end to 1, and label of each tick.
    """

    name: str
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Line:
    """A sample, drawn as a line through all axes.

    Attributes:
        positions: Position on each axis, from 0 to 1; None where the sample has no value.
        description: Tooltip.
        strength: Opacity, from 0 (faint) to 1.
        kind: `best` is emphasized, `pruned` is dashed.
    """

    positions: Sequence[float | None]
    description: str
    strength: float
    kind: Literal["best", "other", "pruned"] = "other"


def parallel_coordinates(
    title: str, axes: Sequence[Axis], lines: Sequence[Line], description: str
) -> str:
    """Draw the chart.

    Args:
        title: Its caption.
        axes: At least two.
        lines: In drawing order: later lines cover earlier ones.
        description: What the chart shows, for screen readers.
    """
    width = max(WIDTH, LEFT + RIGHT + MIN_AXIS_DISTANCE * (len(axes) - 1))
    xs = [LEFT + number * (width - LEFT - RIGHT) / (len(axes) - 1) for number in range(len(axes))]
    absent = [any(line.positions[number] is None for line in lines) for number in range(len(axes))]
    drawn = "".join(_line(line, xs) for line in lines)
    drawn += "".join(map(_axis, axes, xs, absent))
    shown = figure(title, drawn, description, size=(width, HEIGHT))
    wide = f'<div style="min-width:{width * 0.65:.0f}px">{shown}</div>'
    return f'<div class="scroll" tabindex="0" role="group" aria-label="chart">{wide}</div>'


def _axis(axis: Axis, x: float, absent: bool) -> str:
    drawn = (
        f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
        f'<text x="{x:.1f}" y="{TOP - 16}" text-anchor="middle">{escape(truncate_start(axis.name))}'
        f"<title>{escape(axis.name)}</title></text>"
    )
    labels = [(_y(position), label) for position, label in axis.ticks]
    labels += [(_y(None), "not sampled")] if absent else []
    for y, label in labels:
        drawn += (
            f'<path class="grid" d="M{x - 3:.1f} {y:.1f}H{x + 3:.1f}"/>'
            f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end" {_OVER_LINES}>'
            f"{escape(truncate_start(label, 14))}</text>"
        )
    return drawn


def _line(line: Line, xs: Sequence[float]) -> str:
    points = "L".join(f"{x:.1f} {_y(at):.1f}" for x, at in zip(xs, line.positions, strict=True))
    best, dashes = line.kind == "best", ' stroke-dasharray="3 3"' * (line.kind == "pruned")
    # An inline style, because the style sheet would override attributes.
    style = f"stroke-width:{3 if best else 1.5};opacity:{0.2 + 0.8 * line.strength:.2f}"
    return (
        f'<path class="line s{4 if best else 0}" style="{style}"{dashes} d="M{points}">'
        f"<title>{escape(line.description)}</title></path>"
    )


def _y(position: float | None) -> float:
    """Return the vertical pixel of a position; absent values lie below the axis."""
    if position is None:
        return HEIGHT - 12
    return HEIGHT - BOTTOM - position * (HEIGHT - TOP - BOTTOM)
