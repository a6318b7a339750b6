"""Sections of a report about one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dltrain.core.jsonable import format_decimal
from dltrain.core.task import Figure
from dltrain.reporting.charts import Series
from dltrain.reporting.content import DetailLevel, ReportedRun
from dltrain.reporting.curves import charts, curves
from dltrain.reporting.formatting import format_bytes, format_number
from dltrain.reporting.html import (
    escape,
    image,
    paragraph,
    preformatted,
    section,
    table,
    tiles,
)
from dltrain.reporting.predictions import prediction_sections

FIGURE_CAPTIONS = {
    "reconstructions": "Rows of inputs, each above the row of their reconstructions.",
    "samples": "Generated from random noise.",
    "sample": "Text that the model generates.",
    "outputs": "Inputs of the split with the model's outputs.",
}


def article(run: ReportedRun, number: int, detail: DetailLevel) -> str:
    """Return all sections about one run, HTML."""
    heading = f'<article><h2 id="run{number}">{escape(run.directory)}</h2>'
    shown = [
        "".join(paragraph(note, "note") for note in run.notes),
        _overview(run),
        section("Curves", charts(curves(run.scalars))),
    ]
    if (evaluation := run.evaluation) is not None:
        shown += prediction_sections(evaluation, detail)
        shown += [_figure(figure, detail) for figure in evaluation.figures]
    shown += [
        _throughput(run),
        _data(run.record.get("data", {})),
        _environment(run.record),
        section("Config", preformatted(run.config)),
    ]
    return heading + "".join(shown) + "</article>"


def _overview(run: ReportedRun) -> str:
    evaluation, summary = run.evaluation, run.summary
    shown = {}
    if run.model:
        shown["model"] = run.model
    if run.num_parameters is not None and run.model_bytes is not None:
        shown |= {
            "parameters": f"{run.num_parameters:,}",
            "model size": format_bytes(run.model_bytes),
        }
    shown["state"] = run.state
    if summary:
        shown |= {"steps": f"{summary['step']:,}", "epochs": format_decimal(summary["epoch"])}
    if best := summary.get("best"):
        shown[f"best {best['metric']}"] = format_number(best["value"])
    lines = ""
    if summary.get("error"):
        lines = paragraph(f"The run failed: {summary['error']}", "note")
    if evaluation is not None:
        metrics = evaluation.metrics.items()
        shown |= {f"{evaluation.split} {name}": format_number(value) for name, value in metrics}
        lines += paragraph(
            f"{evaluation.split.capitalize()} metrics: {evaluation.num_samples:,} samples, "
            f"weights of checkpoint {evaluation.checkpoint}.",
            "soft",
        )
    return tiles(shown) + lines


def _figure(figure: Figure, detail: DetailLevel) -> str:
    name = figure.tag.replace("_", " ").capitalize()
    caption = paragraph(FIGURE_CAPTIONS[figure.tag]) if figure.tag in FIGURE_CAPTIONS else ""
    if figure.kind == "text":
        return section(name, caption, _text(figure.content))
    if figure.kind == "image":
        return section(name, caption, image(figure.content, name, detail.grid_pixels, "sheet"))
    return ""  # precision-recall curves are for TensorBoard


def _text(content: str) -> str:
    """Return a text figure: a Markdown table as a table, any other text with its own lines."""
    lines = content.split("\n")
    rows = [
        [cell.strip() for cell in line[1:-1].split("|")]
        for line in lines
        if line[:1] == line[-1:] == "|"
    ]
    if len(rows) == len(lines) > 2 and len({len(row) for row in rows}) == 1:
        return table(rows[0], rows[2:], "words")
    # In Markdown, four spaces before a line mean preformatted text.
    return preformatted("\n".join(line.removeprefix("    ") for line in lines))


def _throughput(run: ReportedRun) -> str:
    summary, timings = run.summary, run.record.get("timings", {})
    shown = {}
    if summary:
        shown |= {
            "training time": f"{summary['seconds']:.1f} s",
            "samples per second": f"{summary['samples_per_second']:,.0f}",
            "peak memory": format_bytes(summary["peak_memory_bytes"]),
        }
    if timings:
        shown |= {
            "data loading time": f"{timings['data_seconds']:.1f} s",
            "model build time": f"{timings['build_seconds']:.1f} s",
        }
    speed = run.scalars.get("system/samples_per_second", [])
    drawn = charts({"samples per second": [Series("training", speed)]} if speed else {})
    return section("Throughput", tiles(shown) if shown else "", drawn)


def _data(data: Mapping[str, Any]) -> str:
    if not data:
        return ""
    sizes = ", ".join(f"{count:,} {split}" for split, count in data["sizes"].items())
    rows = [("name", data["name"]), ("source", data["source"]), ("samples", sizes)]
    rows += [("fingerprint", f"SHA-256 {data['fingerprint']}")]
    rows += [("note", notice) for notice in data["notices"]]
    return section("Data", table([], rows, "words"))


def _environment(record: Mapping[str, Any]) -> str:
    if not record:
        return ""
    git = record["git"]
    rows = [
        *((f"device {name}", value) for name, value in record["device"].items()),
        *((name, value) for name, value in record["versions"].items() if value is not None),
        ("command", " ".join(record["command"])),
        ("directory", record["directory"]),
        ("started", record["started"]),
    ]
    if git:
        changed = ", with uncommitted changes" if git["diff"] else ""
        rows.append(("commit", git["commit"] + changed))
    return section("Environment", table([], rows, "words"))
