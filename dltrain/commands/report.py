"""Write an HTML page about finished runs, without scripts or references to other files."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from dltrain._version import __version__
from dltrain.build import Trained, build_data, load_trained
from dltrain.checkpoints.atomic_files import write_atomically
from dltrain.checkpoints.snapshot import num_bytes
from dltrain.core.batch import Batch
from dltrain.core.errors import DataError, RunError, UsageError, print_warning
from dltrain.core.paths import as_paths
from dltrain.core.protocols import Data, Split
from dltrain.loggers.jsonl import read_scalars
from dltrain.reporting.analysis import ClassificationAnalysis, RegressionAnalysis
from dltrain.reporting.charts import Series
from dltrain.reporting.content import DetailLevel, Evaluation, ReportedRun
from dltrain.reporting.curves import charts
from dltrain.reporting.formatting import format_number
from dltrain.reporting.html import document, escape, paragraph, section, table
from dltrain.reporting.sections import article
from dltrain.rundir.directory import Run
from dltrain.rundir.provenance import fingerprint
from dltrain.tasks.supervised import Supervised

MAX_BYTES = 3_000_000
"""Maximum size of a page, which fits into an e-mail."""

DETAIL_LEVELS = (
    DetailLevel(24, 112, 480),
    DetailLevel(12, 96, 320),
    DetailLevel(4, 64, 200),
    DetailLevel(0, 1, 100),
)
"""The first level whose page fits into `MAX_BYTES` is used."""

OVERRIDES = ("recording.tensorboard=true", "recording.images=64")
"""Make a task draw its images, whatever the run itself recorded."""


@dataclass(frozen=True)
class Report:
    """A page that was written.

    Attributes:
        path: Path of the HTML file.
        bytes: Size of the file.
        runs: Run directories on the page.
        notes: Parts that could not be shown, each with the reason.
    """

    path: str
    bytes: int
    runs: list[str]
    notes: list[str]


def report(
    runs: str | Path | Iterable[str | Path],
    output: str | Path | None = None,
    *,
    checkpoint: str | None = None,
    device: str | None = None,
) -> Report:
    """Evaluate runs on their test split, or else on validation, and write a page about them.

    For a run that can't be evaluated any more, the page shows what was recorded.

    Args:
        runs: A run directory, or several.
        output: Path of the HTML file (default: `report.html` in the first run).
        checkpoint: Name of the checkpoint, as for `load_trained`.
        device: Overrides the device of the config.

    Raises:
        RunError: A directory is not a run directory, or the file can't be written.
        UsageError: No run is given.
    """
    directories = as_paths(runs)
    if not directories:
        raise UsageError("expected at least one run directory, got none")
    reported = [_collect(Run.open(path), checkpoint, device) for path in directories]
    for detail in DETAIL_LEVELS:
        content = _page(reported, detail).encode(errors="replace")
        if len(content) < MAX_BYTES:
            break
    else:
        raise RunError(
            f"a page about {len(directories)} runs exceeds {MAX_BYTES // 1_000_000} MB: "
            "give fewer runs"
        )
    path = directories[0] / "report.html" if output is None else Path(output)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise RunError(f"{path}: can't be written: {error.strerror or error}") from error
    notes = [f"{run.directory}: {note}" for run in reported for note in run.notes]
    return Report(str(path), len(content), [run.directory for run in reported], notes)


def _collect(run: Run, checkpoint: str | None, device: str | None) -> ReportedRun:
    """Read what a run recorded, and evaluate it if possible."""
    notes: list[str] = []
    evaluation = num_parameters = model_bytes = None
    try:
        trained = load_trained(run.directory, checkpoint, device, overrides=OVERRIDES)
        notes += trained.changes
        num_parameters = sum(parameter.numel() for parameter in trained.task.model.parameters())
        model_bytes = num_bytes(trained.task.model.state_dict())
        evaluation = _evaluate(trained, run, notes)
    except (DataError, RunError, UsageError) as error:
        notes.append(f"not evaluated: {error}")
    try:
        record = run.record()
    except RunError as error:  # the process ended before it wrote one
        notes.append(str(error))
        record = {}
    summary = run.summary()
    name, model = _names(run)
    return ReportedRun(
        directory=str(run.directory),
        state=run.state,
        name=name,
        model=model,
        config=run.config_text(),
        scalars=read_scalars(run.metrics_path),
        summary=asdict(summary) if summary else {},
        record=record,
        num_parameters=num_parameters,
        model_bytes=model_bytes,
        evaluation=evaluation,
        notes=notes,
    )


def _names(run: Run) -> tuple[str, str]:
    """Return the names of the experiment and of its model; empty where the config has none."""
    try:
        config = run.config()
        return str(config["name"]), str(config["model"]["name"])
    except (RunError, KeyError, TypeError):
        return "", ""


def _evaluate(trained: Trained, run: Run, notes: list[str]) -> Evaluation:
    record = run.record()
    data = build_data(trained.experiment, trained.runtime, print_warning, record["data_folder"])
    recorded = record["data"]
    if recorded["fingerprint"] != fingerprint(data):
        notes.append(
            f"evaluated on {data.source}, which differs from the data of the training, "
            f"{recorded['source']}"
        )
    split, samples = _choose_split(data)
    batch_size = trained.experiment.train.samples_at_once
    with torch.inference_mode(), trained.runtime.precision.autocast():
        metrics = trained.task.evaluate(samples.batches(batch_size))
        analysis = _analyze(trained, samples.batches(batch_size))
    figures = [] if analysis is not None else trained.task.figures()
    name = trained.checkpoint.name
    return Evaluation(name, split, len(samples), trained.spec, metrics, analysis, figures)


def _choose_split(data: Data) -> tuple[str, Split]:
    for name, samples in (("test", data.test), ("validation", data.validation)):
        if samples is not None:
            return name, samples
    return "training", data.train


def _analyze(
    trained: Trained, batches: Iterator[Batch]
) -> ClassificationAnalysis | RegressionAnalysis | None:
    """Analyze the predictions; None for a task without predictions."""
    task, spec, num_errors = trained.task, trained.spec, DETAIL_LEVELS[0].num_errors
    if not isinstance(task, Supervised):
        return None
    if spec.num_classes:
        analysis = ClassificationAnalysis(spec, num_errors)
    else:
        analysis = RegressionAnalysis(num_errors)
    for batch in batches:
        predictions = task.predict(batch.inputs)
        targets = task.loss_function.targets(batch.targets)
        analysis.update(batch.inputs, predictions, targets, batch.index)
    return analysis


def _page(reported: Sequence[ReportedRun], detail: DetailLevel) -> str:
    several = len(reported) > 1
    title = f"{len(reported)} runs" if several else reported[0].name or reported[0].directory
    written = f"Report by dltrain {__version__}, {time.strftime('%Y-%m-%d %H:%M')}"
    body = [f"<header><h1>{escape(title)}</h1>", paragraph(written, "soft"), "</header><main>"]
    if several:
        body.append(_comparison(reported))
    body += [article(run, number, detail) for number, run in enumerate(reported)]
    return document(f"{title} - dltrain", "".join([*body, "</main>"]))


def _comparison(reported: Sequence[ReportedRun]) -> str:
    """Return a table and charts of all runs side by side."""
    measured = [dict(run.evaluation.metrics) if run.evaluation else {} for run in reported]
    names = list(dict.fromkeys(name for metrics in measured for name in metrics))
    rows = [
        (
            run.directory,
            run.state,
            *(format_number(metrics[n]) if n in metrics else "" for n in names),
        )
        for run, metrics in zip(reported, measured, strict=True)
    ]
    lines: dict[str, list[Series]] = {}
    for color, run in enumerate(reported):
        for name, points in run.scalars.items():
            if name.startswith("val/"):
                lines.setdefault(name, []).append(Series(run.directory, points, color))
    return section("Overview", table(["run", "state", *names], rows), charts(lines), level=2)
