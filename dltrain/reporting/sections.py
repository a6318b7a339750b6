"""Sections of a report about one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dltrain.core.data_spec import DataSpec, ImageInputs, TableInputs, TextInputs
from dltrain.core.jsonable import format_decimal
from dltrain.core.task import Figure
from dltrain.data.tokenization import text_of
from dltrain.loggers.jsonl import Scalars
from dltrain.metrics.classification import predicted_classes
from dltrain.reporting.analysis import (
    BINS,
    ClassificationAnalysis,
    PredictionError,
    RegressionAnalysis,
)
from dltrain.reporting.charts import Series, line_chart, reliability_diagram, scatter_plot
from dltrain.reporting.formatting import format_bytes, format_number
from dltrain.reporting.html import (
    balanced_columns,
    confusion_matrix,
    escape,
    image,
    paragraph,
    preformatted,
    section,
    table,
    tiles,
)
from dltrain.tasks.figures import to_pixels

MAX_MATRIX_CLASSES = 30
"""With more classes, the report lists the most frequent confusions instead of the whole matrix."""

MAX_CHARTS = 18
MAX_TEXT_CHARACTERS = 400
MAX_TABLE_COLUMNS = 8
MAX_OUTPUTS = 4
"""Values of a prediction that a table of errors shows."""

SPLIT_LABELS = {"train": "training", "val": "validation"}
FIGURE_CAPTIONS = {
    "reconstructions": "Rows of inputs, each above the row of their reconstructions.",
    "samples": "Generated from random noise.",
    "sample": "Text that the model generates.",
    "outputs": "Inputs of the split with the model's outputs.",
}


@dataclass(frozen=True)
class Evaluation:
    """Results of a model on a split.

    Attributes:
        checkpoint: Name of the checkpoint with the weights.
        split: Name of the split.
        num_samples: Number of samples in it.
        spec: Spec of the data.
        metrics: Loss and metrics.
        analysis: Errors of the predictions; None for a task without predictions.
        figures: Figures of the task; empty for a task with predictions.
    """

    checkpoint: str
    split: str
    num_samples: int
    spec: DataSpec
    metrics: Mapping[str, float]
    analysis: ClassificationAnalysis | RegressionAnalysis | None
    figures: Sequence[Figure]


@dataclass(frozen=True)
class ReportedRun:
    """Everything that a report shows about one run.

    Attributes:
        directory: The run directory.
        state: State of the run, such as `done`.
        name: Name of the experiment; empty where the config can't be read.
        model: Name of the model; empty where the config can't be read.
        config: The resolved config, YAML.
        scalars: Contents of `metrics.jsonl`.
        summary: Contents of `summary.json`; empty where there is none.
        record: Contents of `record.json`; empty where there is none.
        num_parameters: Of the model; None where it can't be built.
        model_bytes: Of its parameters and buffers; None where it can't be built.
        evaluation: Results on a split; None where the run can't be evaluated.
        notes: Warnings to the reader.
    """

    directory: str
    state: str
    name: str
    model: str
    config: str
    scalars: Mapping[str, Scalars]
    summary: Mapping[str, Any]
    record: Mapping[str, Any]
    num_parameters: int | None = None
    model_bytes: int | None = None
    evaluation: Evaluation | None = None
    notes: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class DetailLevel:
    """Limits that keep a page small.

    Attributes:
        num_errors: Number of the largest errors to show.
        image_pixels: Longest side of an image.
        grid_pixels: Longest side of a grid of images.
    """

    num_errors: int
    image_pixels: int
    grid_pixels: int


def article(run: ReportedRun, number: int, detail: DetailLevel) -> str:
    """Return all sections about one run, HTML."""
    heading = f'<article><h2 id="run{number}">{escape(run.directory)}</h2>'
    shown = [
        "".join(paragraph(note, "note") for note in run.notes),
        _overview(run),
        section("Curves", charts(curves(run.scalars))),
    ]
    if (evaluation := run.evaluation) is not None:
        shown += _predictions(evaluation, detail)
        shown += [_figure(figure, detail) for figure in evaluation.figures]
    shown += [
        _throughput(run),
        _data(run.record.get("data", {})),
        _environment(run.record),
        section("Config", preformatted(run.config)),
    ]
    return heading + "".join(shown) + "</article>"


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


def _predictions(evaluation: Evaluation, detail: DetailLevel) -> list[str]:
    """Return the sections about a task's predictions."""
    analysis = evaluation.analysis
    if analysis is None:
        return []
    errors = analysis.largest.found[: detail.num_errors]
    shown = (_errors_table if evaluation.spec.inputs.kind == "table" else _errors_gallery)(
        evaluation.spec, errors, detail
    )
    if isinstance(analysis, RegressionAnalysis):
        plot = scatter_plot("Predicted versus true values", analysis.pairs, "true", "predicted")
        caption = "Each point is a sample; on the dashed line the prediction is exact."
        if evaluation.spec.num_outputs > 1:
            caption += f" Of {evaluation.spec.num_outputs} outputs, the first is shown."
        return [
            section("Predictions", paragraph(caption), f'<div class="beside">{plot}</div>'),
            section("Largest errors", shown),
        ]
    if detail.num_errors and not errors:
        shown = paragraph("All predictions on this split are correct.")
    return [*_classification(analysis), section("Worst errors", shown)]


def _classification(analysis: ClassificationAnalysis) -> list[str]:
    names = [str(name) for name in analysis.names]
    if len(names) <= MAX_MATRIX_CLASSES:
        caption = (
            "Rows are true classes, columns are predicted classes; "
            "the stronger the color of a cell, the larger its fraction of the row."
        )
        confusion = confusion_matrix(names, analysis.confusion.matrix.cpu().tolist())
    else:
        caption = f"The most frequent confusions of {len(names)} classes."
        confusion = table(["true", "predicted", "samples"], analysis.confusions())
    classes = table(
        ["class", "samples", "precision", "recall", "F1"],
        [(name, count, *(f"{v:.4f}" for v in rest)) for name, count, *rest in analysis.per_class()],
    )
    calibration = analysis.calibration
    bins = table(
        ["confidence", "samples", "mean confidence", "accuracy"],
        [
            (f"{i / BINS:.0%} to {(i + 1) / BINS:.0%}", count, f"{mean:.1%}", f"{accuracy:.1%}")
            for i, (count, mean, accuracy) in enumerate(calibration.bins)
            if count
        ],
    )
    diagram = reliability_diagram("Reliability diagram", calibration.bins)
    explanation = (
        f"Expected calibration error ({BINS} bins): {calibration.error:.4f}. A bar is the accuracy "
        "of the samples of one confidence bin; bars of a calibrated model end on the dashed line."
    )
    return [
        section("Confusion matrix", paragraph(caption), confusion),
        section("Classes", classes),
        section(
            "Calibration", paragraph(explanation), f'<div class="beside">{diagram}{bins}</div>'
        ),
    ]


def _errors_table(spec: DataSpec, errors: Sequence[PredictionError], detail: DetailLevel) -> str:
    """Return a table of errors with the columns of each sample."""
    assert isinstance(spec.inputs, TableInputs)
    if not errors:
        return ""
    columns = [column.name for column in spec.inputs.columns[:MAX_TABLE_COLUMNS]]
    head = ["predicted", "probability", "true"] if spec.num_classes else ["predicted", "true"]
    head = ["sample", *head, "cross-entropy" if spec.num_classes else "absolute error", *columns]
    rows = []
    for error in errors:
        cells = [value for _, value in _cells(spec.inputs, error.inputs.tolist())]
        outcome = _class_outcome(spec, error) if spec.num_classes else _value_outcome(error)
        rows.append(
            (error.index, *outcome, format_number(error.size, 4), *cells[:MAX_TABLE_COLUMNS])
        )
    omitted = len(spec.inputs.columns) - len(columns)
    note = f"The first {len(columns)} of {len(spec.inputs.columns)} columns are shown."
    return table(head, rows) + (paragraph(note, "soft") if omitted else "")


def _class_outcome(spec: DataSpec, error: PredictionError) -> tuple[str, str, str]:
    """Return predicted class, its probability, and true class."""
    predicted, true = int(predicted_classes(error.prediction)), int(error.target)
    if predicted < 0:
        return "no class", "NaN", spec.class_names[true]
    probability = f"{float(error.prediction[predicted]):.1%}"
    return spec.class_names[predicted], probability, spec.class_names[true]


def _value_outcome(error: PredictionError) -> tuple[str, str]:
    """Return predicted and true values."""
    return _values(error.prediction), _values(error.target)


def _values(values: Tensor) -> str:
    shown = ", ".join(format_number(value) for value in values[:MAX_OUTPUTS].tolist())
    return shown + (", …" if len(values) > MAX_OUTPUTS else "")


def _errors_gallery(spec: DataSpec, errors: Sequence[PredictionError], detail: DetailLevel) -> str:
    """Return the images or texts of errors, each with a caption."""
    shown = "".join(_error_figure(spec, error, detail.image_pixels) for error in errors)
    if not shown:
        return ""
    width = "" if spec.inputs.kind == "image" else " wide"
    return f'<div class="gallery{width}">{shown}</div>'


def _error_figure(spec: DataSpec, error: PredictionError, max_side: int) -> str:
    if spec.num_classes:
        predicted, probability, true = _class_outcome(spec, error)
        outcome = f"{predicted} ({probability})"
    else:
        outcome, true = _value_outcome(error)
    caption = (
        f'predicted <span class="bad">{escape(outcome)}</span><br>true {escape(true)}<br>'
        f'<span class="soft">sample {error.index}</span>'
    )
    alt = f"sample {error.index}: true {true}, predicted {outcome}"
    sample = _sample(spec, error.inputs, alt, max_side)
    return f"<figure>{sample}<figcaption>{caption}</figcaption></figure>"


def _sample(spec: DataSpec, inputs: Tensor, alt: str, max_side: int) -> str:
    """Return one image or text, HTML."""
    match spec.inputs:
        case ImageInputs():
            return image(to_pixels(spec, inputs[None])[0], alt, max_side)
        case TextInputs() as text:
            content = text_of(text, inputs.tolist())
            if len(content) > MAX_TEXT_CHARACTERS:
                content = f"{content[:MAX_TEXT_CHARACTERS]}…"
            return f"<blockquote>{escape(content)}</blockquote>"
        case _:
            return ""


def _cells(inputs: TableInputs, values: Sequence[float]) -> list[tuple[str, str]]:
    """Return name and value of each column of a sample, in the column's own unit."""
    cells, start = [], 0
    for column in inputs.columns:
        part = values[start : start + column.width]
        start += column.width
        if column.categories:
            shown = column.categories[part.index(max(part))] if max(part) > 0 else "unknown"
        else:
            shown = format_number(part[0] * column.std + column.mean)
        cells.append((column.name, shown))
    return cells


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
