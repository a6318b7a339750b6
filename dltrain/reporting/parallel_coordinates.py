"""Parallel coordinates: an axis for each dimension side by side, a line for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dltrain.reporting.charts import figure, truncate_start
from dltrain.reporting.html import escape

WIDTH, HEIGHT = 1080, 330
NARROWEST = 135
"""Between two axes; more axes make a wider picture, which scrolls."""
LEFT, RIGHT, TOP, BOTTOM = 70, 70, 34, 40
_OVER_LINES = 'style="paint-order:stroke;stroke:var(--raised);stroke-width:4px"'


@dataclass(frozen=True)
class Axis:
    """A dimension.

    Attributes:
        name: Above it.
        ticks: Places from 0, the lower end, to 1, each with what is there.
    """

    name: str
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Line:
    """A sample.

    Attributes:
        places: On each axis, from 0 to 1; None where it has no value.
        told: What it is.
        strength: From 0, hardly seen, to 1.
        kind: `best` stands out, `ended` is dashed.
    """

    places: Sequence[float | None]
    told: str
    strength: float
    kind: Literal["best", "other", "ended"] = "other"


def parallel_coordinates(title: str, axes: Sequence[Axis], lines: Sequence[Line], told: str) -> str:
    """The picture.

    Args:
        title: What is shown.
        axes: At least two.
        lines: Drawn in this order, later ones over earlier ones.
        told: The picture in words.
    """
    width = max(WIDTH, LEFT + RIGHT + NARROWEST * (len(axes) - 1))
    xs = [LEFT + number * (width - LEFT - RIGHT) / (len(axes) - 1) for number in range(len(axes))]
    absent = [any(line.places[number] is None for line in lines) for number in range(len(axes))]
    drawn = "".join(_line(line, xs) for line in lines)
    drawn += "".join(map(_axis, axes, xs, absent))
    shown = figure(title, drawn, told, size=(width, HEIGHT))
    wide = f'<div style="min-width:{width * 0.65:.0f}px">{shown}</div>'
    return f'<div class="scroll" tabindex="0" role="group" aria-label="picture">{wide}</div>'


def _axis(axis: Axis, x: float, absent: bool) -> str:
    drawn = (
        f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
        f'<text x="{x:.1f}" y="{TOP - 16}" text-anchor="middle">{escape(truncate_start(axis.name))}'
        f"<title>{escape(axis.name)}</title></text>"
    )
    labels = [(_y(place), label) for place, label in axis.ticks]
    labels += [(_y(None), "not drawn")] if absent else []
    for y, label in labels:
        drawn += (
            f'<path class="grid" d="M{x - 3:.1f} {y:.1f}H{x + 3:.1f}"/>'
            f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end" {_OVER_LINES}>'
            f"{escape(truncate_start(label, 14))}</text>"
        )
    return drawn


def _line(line: Line, xs: Sequence[float]) -> str:
    points = "L".join(f"{x:.1f} {_y(place):.1f}" for x, place in zip(xs, line.places, strict=True))
    best, dashes = line.kind == "best", ' stroke-dasharray="3 3"' * (line.kind == "ended")
    # A style of its own: the style sheet's would be stronger than attributes.
    style = f"stroke-width:{3 if best else 1.5};opacity:{0.2 + 0.8 * line.strength:.2f}"
    return (
        f'<path class="line s{4 if best else 0}" style="{style}"{dashes} d="M{points}">'
        f"<title>{escape(line.told)}</title></path>"
    )


def _y(place: float | None) -> float:
    """Absent values lie below the axis."""
    return HEIGHT - 12 if place is None else HEIGHT - BOTTOM - place * (HEIGHT - TOP - BOTTOM)
