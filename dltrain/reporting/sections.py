"""A run, section by section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from dltrain.data.tokens import text_of
from dltrain.metrics.classification import predicted_classes
from dltrain.plain import decimal
from dltrain.recording.metrics_file import Scalars
from dltrain.reporting.analysis import ClassificationAnalysis, Mistake, RegressionAnalysis
from dltrain.reporting.charts import Series, line_chart, reliability_diagram, scatter_plot
from dltrain.reporting.html import (
    escape,
    matrix,
    paragraph,
    picture,
    preformatted,
    section,
    table,
    tiles,
)
from dltrain.spec import DataSpec, ImageInputs, TableInputs, TextInputs
from dltrain.task import Page
from dltrain.tasks.pages import to_pixels

MOST_CLASSES = 30
"""Above this many classes a confusion matrix is a list of its largest entries."""

MOST_CHARTS = 18
MOST_WORDS = 400
"""Characters of a text in the gallery."""


@dataclass(frozen=True)
class Evaluated:
    """What a model does on a split.

    Attributes:
        checkpoint: Where the weights came from.
        split: Which samples.
        samples: How many.
        spec: What they are like.
        metrics: Loss and metrics.
        judged: Right and wrong answers, where the task has answers.
        pages: What else the task has to show.
    """

    checkpoint: str
    split: str
    samples: int
    spec: DataSpec
    metrics: Mapping[str, float]
    judged: ClassificationAnalysis | RegressionAnalysis | None
    pages: Sequence[Page]


@dataclass(frozen=True)
class Told:
    """All that a page tells of one run.

    Attributes:
        place: The run directory.
        state: Whether it runs, and how it ended.
        config: The resolved config, YAML.
        scalars: What was recorded while it trained.
        summary: What `summary.json` holds; empty where there is none.
        record: What `record.json` holds; empty where there is none.
        evaluated: What came out; None where nothing could be evaluated.
        notes: What the reader must know.
    """

    place: str
    state: str
    config: str
    scalars: Mapping[str, Scalars]
    summary: Mapping[str, Any]
    record: Mapping[str, Any]
    evaluated: Evaluated | None = None
    notes: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class Detail:
    """How much of the pictures there is room for.

    Attributes:
        mistakes: How many of the worst ones.
        picture: The longest side of each, in pixels.
        sheet: The longest side of a grid of pictures.
    """

    mistakes: int
    picture: int
    sheet: int


def article(told: Told, number: int, detail: Detail) -> str:
    """Everything about one run."""
    heading = f'<article><h2 id="run{number}">{escape(told.place)}</h2>'
    shown = [
        "".join(paragraph(note, "note") for note in told.notes),
        _outcome(told),
        section("Curves", charts(curves(told.scalars))),
    ]
    if (found := told.evaluated) is not None:
        shown += _answers(found, detail)
        shown += [_page(page, detail) for page in found.pages]
    shown += [
        _throughput(told),
        section("Config", preformatted(told.config)),
        _data(told.record.get("data", {})),
        _environment(told.record),
    ]
    return heading + "".join(shown) + "</article>"


def charts(shown: Mapping[str, Sequence[Series]]) -> str:
    """A chart for each title; none for what never had a finite value."""
    drawn = [
        line_chart(title, lines)
        for title, lines in shown.items()
        if any(y is not None for line in lines for _, y in line.points)
    ]
    return f'<div class="charts">{"".join(drawn[:MOST_CHARTS])}</div>' if drawn else ""


def curves(scalars: Mapping[str, Scalars]) -> dict[str, list[Series]]:
    """Training's and validation's line of each scalar, together."""
    shown: dict[str, list[Series]] = {}
    for name, points in scalars.items():
        split, _, scalar = name.partition("/")
        if split in ("train", "val"):
            label = {"train": "training", "val": "validation"}[split]
            shown.setdefault(scalar, []).append(Series(label, points))
    order = sorted(shown, key=lambda scalar: ("loss" not in scalar, len(shown[scalar]) < 2))
    return {scalar.replace("_", " "): shown[scalar] for scalar in order}


def _outcome(told: Told) -> str:
    found, summary = told.evaluated, told.summary
    shown = {"state": told.state}
    if summary:
        shown |= {"steps": f"{summary['step']:,}", "epochs": decimal(summary["epoch"])}
    if best := summary.get("best"):
        shown[f"best {best['metric']}"] = f"{best['value']:.5g}"
    lines = ""
    if summary.get("error"):
        lines = paragraph(f"It failed: {summary['error']}", "note")
    if found is not None:
        shown |= {f"{found.split} {name}": f"{v:.5g}" for name, v in found.metrics.items()}
        lines += paragraph(
            f"Figures of {found.split} are of {found.samples:,} samples, "
            f"with the weights of {found.checkpoint}.",
            "soft",
        )
    return tiles(shown) + lines


def _answers(found: Evaluated, detail: Detail) -> list[str]:
    """What the task's answers are like."""
    judged = found.judged
    if judged is None:
        return []
    worst = _worst(found, judged.worst.found[: detail.mistakes], detail.picture)
    if isinstance(judged, RegressionAnalysis):
        drawn = scatter_plot("Predicted against true values", judged.pairs, "true", "predicted")
        shown = f'<div class="charts">{drawn}</div>'
        return [section("Predictions", shown), section("Largest errors", worst)]
    names = [str(name) for name in judged.names]
    if len(names) <= MOST_CLASSES:
        confusion = matrix(names, judged.confusion.matrix.cpu().tolist())
    else:
        confusion = table(["true", "predicted", "samples"], judged.confusions())
    classes = table(
        ["class", "samples", "precision", "recall", "F1"],
        [(name, count, *(f"{v:.4f}" for v in rest)) for name, count, *rest in judged.per_class()],
    )
    calibration = judged.calibration
    known = [(i, b) for i, b in enumerate(calibration.bins) if b[0]]
    bins = table(
        ["confidence", "samples", "mean confidence", "accuracy"],
        [
            (f"{i / 15:.0%} to {(i + 1) / 15:.0%}", count, f"{confidence:.1%}", f"{right:.1%}")
            for i, (count, confidence, right) in known
        ],
    )
    diagram = reliability_diagram("Reliability", calibration.bins)
    said = f"Expected calibration error (15 bins): {calibration.error:.4f}"
    return [
        section("Confusion matrix", confusion),
        section("Classes", classes),
        section(
            "Calibration",
            paragraph(said),
            f'<div class="charts">{diagram}{bins}</div>',
        ),
        section("Worst errors", worst or paragraph("There are none.")),
    ]


def _worst(found: Evaluated, mistakes: Sequence[Mistake], longest: int) -> str:
    shown = "".join(_mistake(found.spec, mistake, longest) for mistake in mistakes)
    if not shown:
        return ""
    width = "" if found.spec.inputs.kind == "image" else " wide"
    return f'<div class="gallery{width}">{shown}</div>'


def _mistake(spec: DataSpec, mistake: Mistake, longest: int) -> str:
    if spec.num_classes:
        guess, truth = int(predicted_classes(mistake.prediction)), int(mistake.target)
        name, right = spec.class_names[guess], spec.class_names[truth]
        share = f"{float(mistake.prediction[guess]):.1%}"
        if guess < 0:
            name, share = "no class", "NaN"
        told = f"sample {mistake.index}: {right}, taken for {name}"
        said = f'<span class="bad">{escape(name)} {share}</span><br>is {escape(right)}'
    else:
        guessed, truly = float(mistake.prediction[0]), float(mistake.target[0])
        told = f"sample {mistake.index}: {truly:.5g}, predicted {guessed:.5g}"
        said = f'<span class="bad">{guessed:.5g}</span><br>is {truly:.5g}'
    caption = f'<figcaption>{said} <span class="soft">#{mistake.index}</span></figcaption>'
    return f"<figure>{_sample(spec, mistake.inputs, told, longest)}{caption}</figure>"


def _sample(spec: DataSpec, inputs: Tensor, told: str, longest: int) -> str:
    """One sample as a person would want to see it."""
    match spec.inputs:
        case ImageInputs():
            return picture(to_pixels(spec, inputs[None])[0], told, longest)
        case TextInputs() as text:
            said = text_of(text, inputs.tolist())
            cut = said if len(said) <= MOST_WORDS else f"{said[:MOST_WORDS]}…"
            return f"<blockquote>{escape(cut)}</blockquote>"
        case TableInputs() as rows:
            return table([], _cells(rows, inputs.tolist())[:8], "words")


def _cells(rows: TableInputs, values: Sequence[float]) -> list[tuple[str, str]]:
    """Names and values of a row's columns, in their own units."""
    cells, place = [], 0
    for column in rows.columns:
        part = values[place : place + column.width]
        place += column.width
        if column.categories:
            shown = column.categories[part.index(max(part))] if max(part) > 0 else "unknown"
        else:
            shown = f"{part[0] * column.std + column.mean:.5g}"
        cells.append((column.name, shown))
    return cells


def _page(page: Page, detail: Detail) -> str:
    name = page.tag.replace("_", " ").capitalize()
    kind: Literal["image", "pr_curve", "text"] = page.kind
    if kind == "text":
        # Four spaces before each line keep it as it is in Markdown, and are not wanted here.
        lines = (line.removeprefix("    ") for line in page.content.split("\n"))
        return section(name, preformatted("\n".join(lines)))
    if kind == "image":
        return section(name, picture(page.content, name, detail.sheet, "sheet"))
    return ""


def _throughput(told: Told) -> str:
    summary, timings = told.summary, told.record.get("timings", {})
    shown = {}
    if summary:
        shown |= {
            "training": f"{summary['seconds']:.1f} s",
            "samples a second overall": f"{summary['samples_per_second']:,.0f}",
            "peak memory": f"{summary['peak_memory_bytes'] / 2**20:,.0f} MiB",
        }
    if timings:
        shown |= {
            "reading the data": f"{timings['data_seconds']:.1f} s",
            "building the model": f"{timings['build_seconds']:.1f} s",
        }
    speed = told.scalars.get("system/samples_per_second", [])
    drawn = charts({"samples a second": [Series("training", speed)]} if speed else {})
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
        rows.append(("commit", git["commit"] + (", with changes" if git["diff"] else "")))
    return section("Environment", table([], rows, "words"))
