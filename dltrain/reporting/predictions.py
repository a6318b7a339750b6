"""Sections about the predictions of a classifier or a regression, and their largest errors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dltrain.core.data_spec import DataSpec, ImageInputs, TableInputs, TextInputs
from dltrain.data.tokenization import decode
from dltrain.metrics.classification import predicted_classes
from dltrain.reporting.analysis import (
    BINS,
    ClassificationAnalysis,
    PredictionError,
    RegressionAnalysis,
)
from dltrain.reporting.charts import reliability_diagram, scatter_plot
from dltrain.reporting.content import DetailLevel, Evaluation
from dltrain.reporting.formatting import format_number
from dltrain.reporting.html import confusion_matrix, escape, image, paragraph, section, table
from dltrain.tasks.figures import to_pixels

MAX_MATRIX_CLASSES = 30
"""With more classes, the report lists the most frequent confusions instead of the whole matrix."""

MAX_TEXT_CHARACTERS = 400
MAX_TABLE_COLUMNS = 8
MAX_OUTPUTS = 4
"""Values of a prediction that a table of errors shows."""


def prediction_sections(evaluation: Evaluation, detail: DetailLevel) -> list[str]:
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
            content = decode(text, inputs.tolist())
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
