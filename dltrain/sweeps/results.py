"""The results of a sweep, as data and as an HTML report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dltrain.reporting.charts import Series, bar_chart, line_chart
from dltrain.reporting.html import document, paragraph, preformatted, section, table, tiles
from dltrain.reporting.parallel_coordinates import Axis, Line, parallel_coordinates
from dltrain.sweeps.search_space import Dimension, Range, Value

if TYPE_CHECKING:
    from dltrain.sweeps.study import Search

STATES = {
    "RUNNING": "running",
    "WAITING": "running",
    "COMPLETE": "done",
    "PRUNED": "pruned",
    "FAIL": "failed",
}
MOST_CURVES = 6


@dataclass(frozen=True)
class TrialInfo:
    """One trial of a sweep.

    Attributes:
        number: Number of the trial, from 0.
        state: `running`, `done`, `pruned` or `failed`.
        value: Best value of the metric, or the last value of a pruned trial; None without any.
        values: Sampled values by key of the config; labels for choices.
        evaluations: Value of the metric by number of the evaluation, from 1.
        run: Run directory.
        error: Error message of a failed trial.
    """

    number: int
    state: str
    value: float | None
    values: dict[str, Value]
    evaluations: dict[int, float]
    run: str
    error: str | None


@dataclass(frozen=True)
class Outcome:
    """The results of a sweep.

    Attributes:
        directory: Directory of the sweep.
        metric: Scalar that was optimized.
        higher_is_better: Whether the metric is maximized.
        trials: Trials, by number.
        best: Best completed trial.
        config: Path of the config of the best trial, for `dltrain train`.
        report: Path of the HTML report.
        importance: Importance of each key, which sum to 1: the fraction of the difference between
            good trials and the rest that it explains. Empty with too few completed trials.
        notices: How the user's own code differs from the code that trials were trained with.
    """

    directory: str
    metric: str
    higher_is_better: bool
    trials: list[TrialInfo]
    best: TrialInfo
    config: str
    report: str
    importance: dict[str, float]
    notices: list[str]

    def count(self, state: str) -> int:
        """Return the number of trials in a state."""
        return sum(trial.state == state for trial in self.trials)


def trial_infos(search: Search) -> list[TrialInfo]:
    """Return the trials of a sweep, by number."""
    return [
        TrialInfo(
            number=trial.number,
            state=STATES[trial.state.name],
            value=trial.value,
            values=dict(trial.params),
            evaluations=dict(trial.intermediate_values),
            run=str(search.run_of(trial.number).directory),
            error=trial.user_attrs.get("error"),
        )
        for trial in search.trials()
    ]


def rank_trials(trials: Sequence[TrialInfo], higher_is_better: bool) -> list[TrialInfo]:
    """Return the completed trials, the best first."""
    done = [trial for trial in trials if trial.state == "done"]
    return sorted(done, key=lambda trial: (trial.value or 0.0) * (-1 if higher_is_better else 1))


def render_report(outcome: Outcome, dimensions: Sequence[Dimension], config: str) -> str:
    """Render the results as an HTML page that needs no network and runs no scripts.

    Args:
        outcome: Results to show.
        dimensions: Search space.
        config: Config of the best trial, YAML.
    """
    best = outcome.best
    counts = {state: str(outcome.count(state)) for state in dict.fromkeys(STATES.values())}
    counts = {state: count for state, count in counts.items() if count != "0"}
    counts[f"best {outcome.metric}"] = f"{best.value:.5g}"
    body = [
        "<header><h1>Sweep report</h1>",
        paragraph(outcome.directory, "soft"),
        "</header><main>",
        tiles({"trials": str(len(outcome.trials)), **counts}),
        *(paragraph(f"{notice}; results may differ", "soft") for notice in outcome.notices),
        section("Best values", table([], list(best.values.items()), "words"), level=2),
        section("Parallel coordinates", _parallel(outcome, dimensions), level=2),
        section("Progress", f'<div class="charts">{_progress(outcome)}</div>', level=2),
        section("Trials", _trials(outcome, dimensions), level=2),
        section("The best trial's config", preformatted(config), level=2),
        "</main>",
    ]
    return document(f"{outcome.directory} - dltrain", "".join(body))


def _progress(outcome: Outcome) -> str:
    done = [(t.number, t.value) for t in outcome.trials if t.state == "done"]
    pick = max if outcome.higher_is_better else min
    so_far = [
        (number, pick(value for _, value in done[: place + 1] if value is not None))
        for place, (number, _) in enumerate(done)
    ]
    history = [Series("trial", done), Series("best so far", so_far)]
    charts = line_chart(f"{outcome.metric} by trial", history, x_label="trial")
    best = rank_trials(outcome.trials, outcome.higher_is_better)[:MOST_CURVES]
    curves = [
        Series(f"trial {t.number}", sorted(t.evaluations.items())) for t in best if t.evaluations
    ]
    if curves:
        charts += line_chart(f"{outcome.metric} of the best trials", curves, "evaluation")
    if outcome.importance:
        caption = "Fraction of the difference between good trials and the rest that a key explains."
        charts += bar_chart("Importance of the keys", outcome.importance, caption)
    return charts


def _trials(outcome: Outcome, dimensions: Sequence[Dimension]) -> str:
    keys = [dimension.key for dimension in dimensions]
    rows = [
        (
            trial.number,
            trial.state,
            "" if trial.value is None else f"{trial.value:.5g}",
            len(trial.evaluations),
            *(format_sample(trial.values[key]) if key in trial.values else "-" for key in keys),
            trial.error or "",
        )
        for trial in outcome.trials
    ]
    return table(["trial", "state", outcome.metric, "evaluations", *keys, "error"], rows)


def format_sample(value: Value) -> str:
    """Format a sampled value with at most 4 significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parallel(outcome: Outcome, dimensions: Sequence[Dimension]) -> str:
    """Draw a line for each trial with a value, through its sampled values to the metric."""
    shown = [(trial, trial.value) for trial in outcome.trials if trial.value is not None]
    scale = _Scale(min(value for _, value in shown), max(value for _, value in shown))
    scales = [_scale(dimension) for dimension in dimensions]
    axes = [
        *(Axis(one.key, axis.ticks) for one, axis in zip(dimensions, scales, strict=True)),
        Axis(outcome.metric, scale.ticks),
    ]
    lines = []
    # Later lines are drawn over earlier ones, so the best one is last.
    for trial, value in sorted(shown, key=lambda one: one[1], reverse=not outcome.higher_is_better):
        positions = [
            axis.position(trial.values[one.key]) if one.key in trial.values else None
            for one, axis in zip(dimensions, scales, strict=True)
        ]
        samples = ", ".join(f"{key} {format_sample(one)}" for key, one in trial.values.items())
        label = f"trial {trial.number}, {trial.state}: {outcome.metric} {value:.5g}; {samples}"
        position = scale.position(value)
        strength = position if outcome.higher_is_better else 1 - position
        kind = "pruned" if trial.state == "pruned" else "other"
        kind = "best" if trial == outcome.best else kind
        lines.append(Line([*positions, position], label, strength, kind))
    lines.sort(key=lambda line: line.kind == "best")
    caption = f"{len(lines)} trials; the best one is thick, pruned ones are dashed."
    return parallel_coordinates(outcome.metric, axes, lines, caption) + paragraph(caption, "soft")


class _Scale:
    """Positions of numbers between two bounds."""

    def __init__(self, low: float, high: float, log: bool = False, whole: bool = False) -> None:
        self._low, self._high, self._log, self._whole = low, high, log, whole

    def position(self, value: Value) -> float:
        """Return the position of a value, from 0 to 1."""
        low, high, at = map(self._transform, (self._low, self._high, float(value)))
        return (at - low) / (high - low) if high > low else 0.5

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Return positions and labels of five ticks, or of one if the bounds are equal."""
        low, high = self._transform(self._low), self._transform(self._high)
        if low == high:
            return [(0.5, f"{self._low:.4g}")]
        found = {}
        for number in range(5):
            at = low + (high - low) * number / 4
            value = math.exp(at) if self._log else at
            value = round(value) if self._whole else value
            found[f"{value:.4g}"] = self.position(value)
        return [(position, label) for label, position in found.items()]

    def _transform(self, value: float) -> float:
        return math.log(value) if self._log else value


class _Labels:
    """Evenly spaced positions of choices, in the order of the file."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._positions = {
            label: number / (len(labels) - 1) if len(labels) > 1 else 0.5
            for number, label in enumerate(labels)
        }

    def position(self, value: Value) -> float:
        """Return the position of a choice, from 0 to 1."""
        return self._positions[str(value)]

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Return the positions and labels of all choices."""
        return [(position, label) for label, position in self._positions.items()]


def _scale(dimension: Dimension) -> _Scale | _Labels:
    if isinstance(dimension, Range):
        whole = isinstance(dimension.low, int)
        return _Scale(dimension.low, dimension.high, dimension.log, whole)
    return _Labels(list(dimension.nodes))
