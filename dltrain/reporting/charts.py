"""Charts as SVG: plain text, sharp at every size, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dltrain.reporting.html import escape

WIDTH, HEIGHT = 420, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 40
NUM_COLORS = 6
STANDALONE_TOP = 46
STANDALONE_STYLE = (
    ".paper{fill:#f5f6f8}text{fill:#565b63;font:12px system-ui,sans-serif}"
    ".title{fill:#1c1e21;font-size:14px;font-weight:600}"
    ".grid{stroke:#d9dce1;fill:none}.line{stroke:var(--c);stroke-width:2;fill:none}"
    ".line.s1,.line.s3{stroke-dasharray:7 3}.dot{fill:var(--c)}"
    ".s0{--c:#0b63c5}.s1{--c:#c2410c}.s2{--c:#15803d}.s3{--c:#7e22ce}.s4{--c:#8a6100}"
    ".s5{--c:#0e7490}"
)
MAX_POINTS = 400
"""More would not be seen: a chart is some 350 pixels wide."""


MAX_AXIS_VALUE = 1e300
"""Of a value on an axis: the difference of larger ones may be infinite."""


@dataclass(frozen=True)
class Series:
    """A line: its name in the legend, and its points; None is a value that was not finite."""

    name: str
    points: Sequence[tuple[float, float | None]]


def line_chart(title: str, series: Sequence[Series], x_label: str = "step") -> str:
    """Lines over a common axis, with a legend.

    Args:
        title: What the values are.
        series: At least one finite value in all.
        x_label: What the points lie along.
    """
    lines = [Series(line.name, downsample(line.points)) for line in series]
    drawn = _lines(lines, x_label)
    return figure(title, drawn, _told(lines), [line.name for line in lines])


def standalone_line_chart(title: str, series: Sequence[Series], x_label: str = "step") -> str:
    """The same as a whole SVG file, which brings its title, its legend and its colours along.

    A notebook shows it as a picture: no style of the page reaches it, and none of its own leaks.
    """
    lines = [Series(line.name, downsample(line.points)) for line in series]
    keys, left = "", LEFT
    for number, line in enumerate(lines):
        colour = number % NUM_COLORS
        keys += (
            f'<path class="line s{colour}" d="M{left} {STANDALONE_TOP - 12}h18"/>'
            f'<text x="{left + 23}" y="{STANDALONE_TOP - 8}">{escape(line.name)}</text>'
        )
        left += 40 + 7 * len(line.name)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" '
        f'width="{WIDTH}" height="{HEIGHT + STANDALONE_TOP}" '
        f'role="img" aria-label="{escape(title)}. {escape(_told(lines))}">'
        f"<style>{STANDALONE_STYLE}</style>"
        '<rect class="paper" width="100%" height="100%" rx="8"/>'
        f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>{keys}'
        f'<g transform="translate(0 {STANDALONE_TOP})">{_lines(lines, x_label)}</g></svg>'
    )


def _lines(lines: Sequence[Series], x_label: str) -> str:
    known = [(x, y) for line in lines for x, y in line.points if y is not None]
    axes = _Axes([x for x, _ in known], [y for _, y in known])
    drawn = [axes.draw(x_label)]
    for number, line in enumerate(lines):
        kind = f"line s{number % NUM_COLORS}" + (" again" if number >= NUM_COLORS else "")
        drawn.append(f'<path class="{kind}" d="{axes.path(line.points)}"/>')
        last = [point for point in line.points if point[1] is not None][-1:]
        drawn += [
            f'<circle class="dot s{number % NUM_COLORS}" cx="{axes.x(x):.1f}" '
            f'cy="{axes.y(y):.1f}" r="2.5"/>'
            for x, y in last
            if y is not None
        ]
    return "".join(drawn)


def scatter_plot(
    title: str, points: Sequence[tuple[float, float]], x_label: str, y_label: str
) -> str:
    """Finite points, and the line where both values are equal; nothing where there is none."""
    points = [point for point in points if all(map(math.isfinite, point))]
    if not points:
        return ""
    both = [value for point in points for value in point]
    axes = _Axes(both, both)
    low, high = axes.x_ticks[0], axes.x_ticks[-1]
    drawn = axes.draw(x_label, y_label) + _diagonal(axes, low, high)
    for x, y in downsample(points):
        if y is not None:
            drawn += (
                f'<circle class="dot faint s0" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="2.5"/>'
            )
    told = f"{len(points)} samples from {low:.6g} to {high:.6g}; on the dashed line both are equal."
    return figure(title, drawn, told)


def reliability_diagram(title: str, bins: Sequence[tuple[int, float, float]]) -> str:
    """A reliability diagram: accuracy by confidence, against the line where both are equal.

    Args:
        title: Its heading.
        bins: Samples, mean confidence and accuracy, of bins of equal width from 0 to 1.
    """
    axes = _Axes([0.0, 1.0], [0.0, 1.0])
    drawn = axes.draw("confidence", "accuracy")
    width = 1 / len(bins)
    for number, (count, confidence, accuracy) in enumerate(bins):
        if not count:
            continue
        left, right = axes.x(number * width) + 1, axes.x((number + 1) * width) - 1
        told = f"confidence {confidence:.1%}, accuracy {accuracy:.1%}, {count} samples"
        drawn += (
            f'<rect class="bar s0" x="{left:.1f}" y="{axes.y(accuracy):.1f}" '
            f'width="{right - left:.1f}" height="{axes.y(0) - axes.y(accuracy):.1f}">'
            f"<title>{told}</title></rect>"
        )
    drawn += _diagonal(axes, 0.0, 1.0)
    told = "Bars are the accuracy of samples of like confidence; perfect ones reach the diagonal."
    return figure(title, drawn, told)


def downsample(points: Sequence[tuple], most: int = MAX_POINTS) -> list[tuple]:
    """At most so many points, evenly spaced, the last one always among them."""
    stride = math.ceil(len(points) / most) or 1
    return list(points[::-1][::stride][::-1])


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that enclose two values, in steps of 1, 2 or 5 times a power of ten.

    Values beyond `MAX_AXIS_VALUE` lie outside.
    """
    low, high = (min(max(end, -MAX_AXIS_VALUE), MAX_AXIS_VALUE) for end in (low, high))
    if high - low <= max(1e-12 * max(abs(low), abs(high)), 1 / MAX_AXIS_VALUE):
        margin = abs(low) * 0.1 if abs(low) > 1e-290 else 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


class _Axes:
    """Where values lie in the picture."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        self.x_ticks = ticks(min(xs), max(xs))
        self.y_ticks = ticks(min(ys), max(ys))

    def x(self, value: float) -> float:
        low, high = self.x_ticks[0], self.x_ticks[-1]
        value = min(max(value, low), high)
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        value = min(max(value, low), high)
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def path(self, points: Sequence[tuple[float, float | None]]) -> str:
        """Broken where a value is None."""
        words, pen = [], "M"
        for x, y in points:
            if y is None:
                pen = "M"
                continue
            words.append(f"{pen}{self.x(x):.1f} {self.y(y):.1f}")
            pen = "L"
        return "".join(words)

    def draw(self, x_label: str, y_label: str = "") -> str:
        drawn = []
        for value in self.y_ticks:
            y = self.y(value)
            drawn.append(
                f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
                f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>'
            )
        for place, value in enumerate(self.x_ticks):
            anchor = "end" if place == len(self.x_ticks) - 1 else "middle"
            drawn.append(
                f'<text x="{self.x(value):.1f}" y="{HEIGHT - BOTTOM + 16}" '
                f'text-anchor="{anchor}">{_number(value)}</text>'
            )
        middle = (LEFT + WIDTH - RIGHT) / 2
        drawn.append(
            f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
        )
        if y_label:
            upright = (HEIGHT - BOTTOM + TOP) / 2
            drawn.append(
                f'<text transform="translate(12 {upright}) rotate(-90)" '
                f'text-anchor="middle">{escape(y_label)}</text>'
            )
        return "".join(drawn)


def _number(value: float) -> str:
    """Short enough for an axis: 20000 is 20k."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:.4g}" if value else "0"


def _diagonal(axes: _Axes, low: float, high: float) -> str:
    points = f"M{axes.x(low):.1f} {axes.y(low):.1f}L{axes.x(high):.1f} {axes.y(high):.1f}"
    return f'<path class="ideal" d="{points}"/>'


def _told(lines: Sequence[Series]) -> str:
    """The lines in words, for those who hear the page."""
    told = []
    for line in lines:
        known = [y for _, y in line.points if y is not None]
        if known:
            told.append(
                f"{line.name}: from {known[0]:.4g} to {known[-1]:.4g}, "
                f"lowest {min(known):.4g}, highest {max(known):.4g}"
            )
    return "; ".join(told) + "."


def bar_chart(title: str, shares: Mapping[str, float], told: str) -> str:
    """Shares of a whole, a bar each, the largest first.

    Args:
        title: What they are shares of.
        shares: From 0 to 1, by name; at least one.
        told: What they mean.
    """
    height, left = 24, 150
    drawn = ""
    for number, (name, share) in enumerate(sorted(shares.items(), key=lambda item: -item[1])):
        top, width = TOP + number * height, share * (WIDTH - left - 50)
        drawn += (
            f'<text x="{left - 6}" y="{top + 15}" text-anchor="end">'
            f"{escape(truncate_start(name))}</text>"
            f'<rect class="bar s0" x="{left}" y="{top + 3}" width="{width:.1f}" height="16">'
            f"<title>{escape(name)}: {share:.1%}</title></rect>"
            f'<text x="{left + width + 6:.1f}" y="{top + 15}">{share:.0%}</text>'
        )
    return figure(title, drawn, told, size=(WIDTH, 2 * TOP + height * len(shares)))


def truncate_start(name: str, most: int = 20) -> str:
    """The end of a name, which tells most of a key."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def figure(
    title: str,
    drawn: str,
    told: str,
    legend: Sequence[str] = (),
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> str:
    """A chart: its title, its legend, what is drawn, and what that says to those who hear it."""
    keys = "".join(
        f'<li><span class="key s{number % NUM_COLORS}"></span>{escape(name)}</li>'
        for number, name in enumerate(legend)
    )
    shown = f'<ul class="legend">{keys}</ul>' if legend else ""
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{shown}'
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(title)}. '
        f'{escape(told)}">{drawn}</svg></figure>'
    )
