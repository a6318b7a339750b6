"""Charts of the scalars that a run recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dltrain.loggers.jsonl import Scalars
from dltrain.reporting.charts import Series, line_chart
from dltrain.reporting.formatting import format_number
from dltrain.reporting.html import balanced_columns, paragraph, table

MAX_CHARTS = 18
SPLIT_LABELS = {"train": "training", "val": "validation"}


def charts(shown: Mapping[str, Sequence[Series]]) -> str:
    """Return a chart for each title, and one table of the values that were recorded once.

    A line needs two points: of a run of one epoch, a table says more. Titles without a finite value
    are left out.
    """
    drawn, single = [], {}
    for title, lines in shown.items():
        lengths = [len(line.finite) for line in lines]
        if max(lengths, default=0) > 1:
            drawn.append(line_chart(title, lines, show_last=True))
        elif any(lengths):
            single[title] = {line.name: line.finite[0] for line in lines if line.finite}
    return _grid(drawn[:MAX_CHARTS]) + _single_values(single)


def _grid(drawn: Sequence[str]) -> str:
    if not drawn:
        return ""
    # One or two charts keep the width that they have beside a third.
    style = f' style="--wide:{balanced_columns(len(drawn), 3)}"' if len(drawn) > 2 else ""
    return f'<div class="charts"{style}>{"".join(drawn)}</div>'


def _single_values(values: Mapping[str, Mapping[str, tuple[float, float]]]) -> str:
    """Return a table with a row for each scalar and a column for each line: (step, value)."""
    if not values:
        return ""
    names = list(dict.fromkeys(name for points in values.values() for name in points))
    rows = [
        (
            title,
            ", ".join(dict.fromkeys(f"{step:,.0f}" for step, _ in points.values())),
            *(format_number(points[name][1]) if name in points else "" for name in names),
        )
        for title, points in values.items()
    ]
    return paragraph("Recorded once:") + table(["scalar", "step", *names], rows)


def curves(scalars: Mapping[str, Scalars]) -> dict[str, list[Series]]:
    """Return the training and validation lines of each scalar, by title; losses come first."""
    shown: dict[str, list[Series]] = {}
    for name, points in scalars.items():
        split, _, scalar = name.partition("/")
        if split in SPLIT_LABELS:
            color = list(SPLIT_LABELS).index(split)
            shown.setdefault(scalar, []).append(Series(SPLIT_LABELS[split], points, color))
    ordered = sorted(shown, key=lambda scalar: ("loss" not in scalar, len(shown[scalar]) < 2))
    return {scalar.replace("_", " "): shown[scalar] for scalar in ordered}
