"""One HTML page about finished runs, which needs no network and runs no scripts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from dltrain._version import __version__
from dltrain.build import Trained, build_data, load_trained
from dltrain.errors import DataError, RunError, UsageError, tell
from dltrain.files import write_atomically
from dltrain.paths import as_paths
from dltrain.record import fingerprint
from dltrain.recording.metrics_file import read_scalars
from dltrain.reporting.analysis import ClassificationAnalysis, RegressionAnalysis
from dltrain.reporting.charts import Series
from dltrain.reporting.html import document, paragraph, section, table
from dltrain.reporting.sections import Detail, Evaluated, Told, article, charts
from dltrain.run import Run
from dltrain.spec import Batch, Data
from dltrain.tasks.supervised import Supervised

MOST_BYTES = 3_000_000
"""A page can be sent by mail."""

DETAILS = (Detail(24, 112, 480), Detail(12, 96, 320), Detail(4, 64, 200), Detail(0, 1, 100))
"""The first that fits."""

SHOWN = ("recording.tensorboard=true", "recording.images=64")
"""So that a task draws, whatever the run itself recorded."""


@dataclass(frozen=True)
class Report:
    """The page that was written.

    Attributes:
        path: Where.
        bytes: Its size.
        runs: The runs on it.
        notes: What could not be shown, and why.
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
    """Evaluates runs on their test split, or else on validation, and writes a page about them.

    What was recorded is shown even where a run can't be evaluated any more.

    Args:
        runs: A run directory, or several.
        output: The HTML file; `report.html` in the first run if not given.
        checkpoint: See `load_trained`.
        device: Instead of the config's.

    Raises:
        RunError: One is no run directory, or the file can't be written.
        UsageError: No run is given.
    """
    places = as_paths(runs)
    if not places:
        raise UsageError("give at least one run directory")
    told = [_told(Run.open(place), checkpoint, device) for place in places]
    for detail in DETAILS:
        content = _page(told, detail).encode(errors="replace")
        if len(content) < MOST_BYTES:
            break
    else:
        raise RunError(f"{len(places)} runs are too many for a page of 3 MB: give fewer")
    path = places[0] / "report.html" if output is None else Path(output)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise RunError(f"{path}: can't be written: {error.strerror or error}") from error
    notes = [f"{one.place}: {note}" for one in told for note in one.notes]
    return Report(str(path), len(content), [one.place for one in told], notes)


def _told(run: Run, checkpoint: str | None, device: str | None) -> Told:
    notes: list[str] = []
    evaluated = None
    try:
        evaluated = _evaluated(run, checkpoint, device, notes)
    except (DataError, RunError, UsageError) as error:
        notes.append(f"not evaluated: {error}")
    try:
        record = run.record()
    except RunError as error:  # it was killed before there was one
        notes.append(str(error))
        record = {}
    summary = run.summary()
    return Told(
        place=str(run.directory),
        state=run.state,
        config=run.config_text(),
        scalars=read_scalars(run.metrics_path),
        summary=asdict(summary) if summary else {},
        record=record,
        evaluated=evaluated,
        notes=notes,
    )


def _evaluated(run: Run, checkpoint: str | None, device: str | None, notes: list[str]) -> Evaluated:
    trained = load_trained(run.directory, checkpoint, device, overrides=SHOWN)
    notes += trained.changes
    record = run.record()
    data = build_data(
        trained.experiment,
        trained.machine,
        tell,
        record["data_folder"],
    )
    before = record["data"]
    if before["fingerprint"] != fingerprint(data):
        notes.append(
            f"evaluated on {data.source}, which is not the data that the run was trained on, "
            f"{before['source']}"
        )
    split, samples = _split_of(data)
    size = trained.experiment.train.samples_at_once
    with torch.inference_mode(), trained.machine.numerics.autocast():
        metrics = trained.task.evaluate(samples.batches(size))
        judged = _judged(trained, samples.batches(size))
    pages = [] if judged is not None else trained.task.pages()
    place = trained.checkpoint.name
    return Evaluated(place, split, len(samples), trained.spec, metrics, judged, pages)


def _split_of(data: Data):
    for name, samples in (("test", data.test), ("validation", data.validation)):
        if samples is not None:
            return name, samples
    return "training", data.train


def _judged(
    trained: Trained, batches: Iterator[Batch]
) -> ClassificationAnalysis | RegressionAnalysis | None:
    """Right and wrong answers; None where a task does not answer questions."""
    task, spec, most = trained.task, trained.spec, DETAILS[0].mistakes
    if not isinstance(task, Supervised):
        return None
    judged = ClassificationAnalysis(spec, most) if spec.num_classes else RegressionAnalysis(most)
    for batch in batches:
        predictions = task.predict(batch.inputs)
        targets = task.loss_function.targets(batch.targets)
        judged.update(batch.inputs, predictions, targets, batch.index)
    return judged


def _page(told: Sequence[Told], detail: Detail) -> str:
    several = len(told) > 1
    title = f"{len(told)} runs" if several else told[0].place
    written = f"Written by dltrain {__version__} on {time.strftime('%Y-%m-%d %H:%M')}."
    body = ["<header><h1>Run report</h1>", paragraph(written, "soft"), "</header><main>"]
    if several:
        body.append(_overview(told))
    body += [article(one, number, detail) for number, one in enumerate(told)]
    return document(f"{title} - dltrain", "".join([*body, "</main>"]))


def _overview(told: Sequence[Told]) -> str:
    """The runs side by side."""
    found = [dict(one.evaluated.metrics) if one.evaluated else {} for one in told]
    names = list(dict.fromkeys(name for metrics in found for name in metrics))
    rows = [
        (one.place, one.state, *(f"{metrics[n]:.5g}" if n in metrics else "" for n in names))
        for one, metrics in zip(told, found, strict=True)
    ]
    lines: dict[str, list[Series]] = {}
    for one in told:
        for name, points in one.scalars.items():
            if name.startswith("val/"):
                lines.setdefault(name, []).append(Series(one.place, points))
    return section("Overview", table(["run", "state", *names], rows), charts(lines), level=2)
