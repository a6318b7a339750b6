"""Charts as inline SVG: text without scripts, whose colors come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dltrain.reporting.axes import HEIGHT, LEFT, TOP, WIDTH, Axes, diagonal
from dltrain.reporting.formatting import format_number
from dltrain.reporting.html import escape

NUM_COLORS = 6
STANDALONE_TOP = 46
STANDALONE_STYLE = (
    ".paper{fill:#f5f6f8}text{fill:#565b63;font:13px system-ui,sans-serif}"
    ".title{fill:#1c1e21;font-size:14px;font-weight:600}"
    ".grid{stroke:#d9dce1;fill:none}.line{stroke:var(--c);stroke-width:2;fill:none}"
    ".line.s1,.line.s3{stroke-dasharray:7 3}.dot{fill:var(--c)}"
    ".s0{--c:#0b63c5}.s1{--c:#c2410c}.s2{--c:#15803d}.s3{--c:#7e22ce}.s4{--c:#8a6100}"
    ".s5{--c:#0e7490}"
)
MAX_POINTS = 400
"""Points drawn of a line: a chart is about 350 pixels wide, so more would not be visible."""

MAX_MARKERS = 12
"""A line of at most this many points has a marker at each of them."""

_Point = TypeVar("_Point", bound=tuple[Any, ...])


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: Name in the legend.
        points: Pairs of x and y; y is None where the value was not finite.
        color: Index of its color; by default its position in the chart.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    color: int | None = None

    @property
    def finite(self) -> list[tuple[float, float]]:
        """The points with a finite value."""
        return [(x, y) for x, y in self.points if y is not None]


def line_chart(
    title: str, series: Sequence[Series], x_label: str = "step", *, show_last: bool = False
) -> str:
    """Draw lines over a common axis, with a legend.

    Args:
        title: Name of the values.
        series: The lines; together they must have a finite value.
        x_label: Name of the horizontal axis.
        show_last: Whether the legend shows the last value of each line.
    """
    lines = _prepare(series)
    legend = [(line.name, _last(line) if show_last else "", _color(line)) for line in lines]
    return figure(title, _draw_lines(lines, x_label), _describe(lines), legend)


def standalone_line_chart(title: str, series: Sequence[Series], x_label: str = "step") -> str:
    """Draw the same chart as a complete SVG file with its own title, legend and colors.

    A notebook embeds it as an image, so that no style of the page reaches it, or the reverse.
    """
    lines = _prepare(series)
    keys, left = "", LEFT
    for line in lines:
        keys += (
            f'<path class="line s{_color(line)}" d="M{left} {STANDALONE_TOP - 12}h18"/>'
            f'<text x="{left + 23}" y="{STANDALONE_TOP - 8}">{escape(line.name)}</text>'
        )
        left += 40 + 7 * len(line.name)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" '
        f'width="{WIDTH}" height="{HEIGHT + STANDALONE_TOP}" '
        f'role="img" aria-label="{escape(title)}. {escape(_describe(lines))}">'
        f"<style>{STANDALONE_STYLE}</style>"
        '<rect class="paper" width="100%" height="100%" rx="8"/>'
        f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>{keys}'
        f'<g transform="translate(0 {STANDALONE_TOP})">{_draw_lines(lines, x_label)}</g></svg>'
    )


def _prepare(series: Sequence[Series]) -> list[Series]:
    """Downsample the lines and give each a color."""
    return [
        Series(line.name, downsample(line.points), number if line.color is None else line.color)
        for number, line in enumerate(series)
    ]


def _color(line: Series) -> int:
    return (line.color or 0) % NUM_COLORS


def _last(line: Series) -> str:
    return format_number(line.finite[-1][1], 4) if line.finite else "not finite"


def _draw_lines(lines: Sequence[Series], x_label: str) -> str:
    points = [point for line in lines for point in line.finite]
    axes = Axes([x for x, _ in points], [y for _, y in points], tight=True)
    drawn = [axes.draw(x_label)]
    for line in lines:
        dashed = " again" if (line.color or 0) >= NUM_COLORS else ""
        kind = f"line s{_color(line)}{dashed}"
        drawn.append(f'<path class="{kind}" d="{axes.path(line.points)}"/>')
        # A short line shows where it was measured, a single value can be seen at all.
        finite = line.finite
        marked = finite if len(finite) <= MAX_MARKERS else finite[-1:]
        radius = 4 if len(finite) == 1 else 2.5
        for x, y in marked:
            label = escape(f"{line.name}: {y:.5g} at {x_label} {x:g}")
            drawn.append(
                f'<circle class="dot s{_color(line)}" cx="{axes.x(x):.1f}" '
                f'cy="{axes.y(y):.1f}" r="{radius}"><title>{label}</title></circle>'
            )
    return "".join(drawn)


def scatter_plot(
    title: str, points: Sequence[tuple[float, float]], x_label: str, y_label: str
) -> str:
    """Draw points over the diagonal on which both values are equal.

    Points that are not finite are left out; without any other the result is empty.
    """
    points = [point for point in points if all(map(math.isfinite, point))]
    if not points:
        return ""
    values = [value for point in points for value in point]
    axes = Axes(values, values)
    low, high = axes.x_ticks[0], axes.x_ticks[-1]
    drawn = axes.draw(x_label, y_label) + diagonal(axes, low, high)
    for x, y in downsample(points):
        drawn += f'<circle class="dot faint s0" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="2.5"/>'
    description = (
        f"{len(points)} samples from {low:.6g} to {high:.6g}; "
        "on the dashed line both values are equal."
    )
    return figure(title, drawn, description)


def reliability_diagram(title: str, bins: Sequence[tuple[int, float, float]]) -> str:
    """Draw accuracy by confidence as bars, over the diagonal on which both are equal.

    Args:
        title: Its heading.
        bins: For each of the bins of equal width from 0 to 1, the number of samples, the mean
            confidence and the accuracy.
    """
    axes = Axes([0.0, 1.0], [0.0, 1.0])
    drawn = axes.draw("confidence", "accuracy")
    width = 1 / len(bins)
    for number, (count, confidence, accuracy) in enumerate(bins):
        if not count:
            continue
        left, right = axes.x(number * width) + 1, axes.x((number + 1) * width) - 1
        label = f"confidence {confidence:.1%}, accuracy {accuracy:.1%}, {count} samples"
        drawn += (
            f'<rect class="bar s0" x="{left:.1f}" y="{axes.y(accuracy):.1f}" '
            f'width="{right - left:.1f}" height="{axes.y(0) - axes.y(accuracy):.1f}">'
            f"<title>{label}</title></rect>"
        )
    drawn += diagonal(axes, 0.0, 1.0)
    description = "Bars show the accuracy of the samples of a bin; the dashed line is ideal."
    return figure(title, drawn, description)


def bar_chart(title: str, fractions: Mapping[str, float], description: str) -> str:
    """Draw a bar for each fraction of a whole, the largest first.

    Args:
        title: Name of the whole.
        fractions: From 0 to 1, by name; at least one.
        description: The meaning of the bars, for screen readers.
    """
    height, left = 24, 150
    drawn = ""
    for number, (name, value) in enumerate(sorted(fractions.items(), key=lambda item: -item[1])):
        top, width = TOP + number * height, value * (WIDTH - left - 50)
        drawn += (
            f'<text x="{left - 6}" y="{top + 15}" text-anchor="end">'
            f"{escape(truncate_start(name))}</text>"
            f'<rect class="bar s0" x="{left}" y="{top + 3}" width="{width:.1f}" height="16">'
            f"<title>{escape(name)}: {value:.1%}</title></rect>"
            f'<text x="{left + width + 6:.1f}" y="{top + 15}">{value:.0%}</text>'
        )
    return figure(title, drawn, description, size=(WIDTH, 2 * TOP + height * len(fractions)))


def downsample(points: Sequence[_Point], most: int = MAX_POINTS) -> list[_Point]:
    """Return at most `most` points, evenly spaced, always with the last one."""
    stride = math.ceil(len(points) / most) or 1
    return list(points[::-1][::stride][::-1])


def _describe(lines: Sequence[Series]) -> str:
    """Describe the lines in words, for screen readers."""
    parts = []
    for line in lines:
        if values := [y for _, y in line.finite]:
            parts.append(
                f"{line.name}: from {values[0]:.4g} to {values[-1]:.4g}, "
                f"lowest {min(values):.4g}, highest {max(values):.4g}"
            )
    return "; ".join(parts) + "."


def truncate_start(name: str, most: int = 20) -> str:
    """Keep the end of a name: the last part of a config key says the most."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def figure(
    title: str,
    drawn: str,
    description: str,
    legend: Sequence[tuple[str, str, int]] = (),
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> str:
    """Wrap a drawing in a titled figure.

    Args:
        title: Its caption.
        drawn: The content of the SVG element.
        description: What it shows, for screen readers.
        legend: Name, value and color of each line.
        size: Width and height of the drawing.
    """
    keys = "".join(
        f'<li><span class="key s{color}"></span>{escape(name)}'
        + (f' <span class="soft">{escape(value)}</span></li>' if value else "</li>")
        for name, value, color in legend
    )
    shown = f'<ul class="legend">{keys}</ul>' if legend else ""
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{shown}'
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(title)}. '
        f'{escape(description)}">{drawn}</svg></figure>'
    )
