"""What came out of a sweep, for a program and for a reader."""

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
        number: From 0.
        state: `running`, `done`, `pruned` or `failed`.
        value: Of the metric: the best of the trial, or the last of a pruned one; None without any.
        values: What was drawn, by key of the config; of a choice, the words for it.
        evaluations: The metric at each evaluation, by its number, from 1.
        run: Its run directory.
        error: Why it failed.
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
    """What a sweep has found.

    Attributes:
        directory: Where it is.
        metric: What was to be good.
        higher_is_better: Of it.
        trials: By number.
        best: The best one that came to its end.
        config: The best one's config, for `dltrain train`.
        report: An HTML page about it.
        importance: By key, what share of the difference between good and other trials it explains;
            empty where too few trials came to their end.
        notices: How the user's own code differs from what trials were trained with.
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
        """How many trials are in a state."""
        return sum(trial.state == state for trial in self.trials)


def trial_infos(search: Search) -> list[TrialInfo]:
    """The trials of a sweep, by number."""
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


def ranked(trials: Sequence[TrialInfo], higher_is_better: bool) -> list[TrialInfo]:
    """Those that came to their end, the best first."""
    done = [trial for trial in trials if trial.state == "done"]
    return sorted(done, key=lambda trial: (trial.value or 0.0) * (-1 if higher_is_better else 1))


def page(outcome: Outcome, dimensions: Sequence[Dimension], config: str) -> str:
    """An HTML page, which needs no network and runs no scripts.

    Args:
        outcome: What is shown.
        dimensions: What was drawn.
        config: The best trial's, YAML.
    """
    best = outcome.best
    shown = {state: str(outcome.count(state)) for state in dict.fromkeys(STATES.values())}
    shown = {state: count for state, count in shown.items() if count != "0"}
    shown[f"best {outcome.metric}"] = f"{best.value:.5g}"
    body = [
        "<header><h1>Sweep report</h1>",
        paragraph(outcome.directory, "soft"),
        "</header><main>",
        tiles({"trials": str(len(outcome.trials)), **shown}),
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
    drawn = line_chart(f"{outcome.metric} by trial", history, x_label="trial")
    best = ranked(outcome.trials, outcome.higher_is_better)[:MOST_CURVES]
    curves = [
        Series(f"trial {t.number}", sorted(t.evaluations.items())) for t in best if t.evaluations
    ]
    if curves:
        drawn += line_chart(f"{outcome.metric} of the best trials", curves, "evaluation")
    if outcome.importance:
        told = "How much of the difference between good and other trials each key explains."
        drawn += bar_chart("Importance of the keys", outcome.importance, told)
    return drawn


def _trials(outcome: Outcome, dimensions: Sequence[Dimension]) -> str:
    keys = [dimension.key for dimension in dimensions]
    rows = [
        (
            trial.number,
            trial.state,
            "" if trial.value is None else f"{trial.value:.5g}",
            len(trial.evaluations),
            *(short(trial.values[key]) if key in trial.values else "-" for key in keys),
            trial.error or "",
        )
        for trial in outcome.trials
    ]
    return table(["trial", "state", outcome.metric, "evaluations", *keys, "error"], rows)


def short(value: Value) -> str:
    """A drawn value, for reading."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parallel(outcome: Outcome, dimensions: Sequence[Dimension]) -> str:
    """A line for each trial that has a value, through what was drawn to the metric."""
    shown = [(trial, trial.value) for trial in outcome.trials if trial.value is not None]
    scale = _Scale(min(value for _, value in shown), max(value for _, value in shown))
    scales = [_scale(dimension) for dimension in dimensions]
    axes = [
        *(Axis(one.key, at.ticks) for one, at in zip(dimensions, scales, strict=True)),
        Axis(outcome.metric, scale.ticks),
    ]
    lines = []
    # Later lines are drawn over earlier ones: the best last.
    for trial, value in sorted(shown, key=lambda one: one[1], reverse=not outcome.higher_is_better):
        drawn = [
            at.place(trial.values[one.key]) if one.key in trial.values else None
            for one, at in zip(dimensions, scales, strict=True)
        ]
        told = f"trial {trial.number}, {trial.state}: {outcome.metric} {value:.5g}; " + ", ".join(
            f"{key} {short(what)}" for key, what in trial.values.items()
        )
        place = scale.place(value)
        strength = place if outcome.higher_is_better else 1 - place
        kind = "pruned" if trial.state == "pruned" else "other"
        kind = "best" if trial == outcome.best else kind
        lines.append(Line([*drawn, place], told, strength, kind))
    lines.sort(key=lambda line: line.kind == "best")
    told = f"{len(lines)} trials; the best is thick, pruned ones are dashed."
    return parallel_coordinates(outcome.metric, axes, lines, told) + paragraph(told, "soft")


class _Scale:
    """Where numbers lie between two bounds."""

    def __init__(self, low: float, high: float, log: bool = False, whole: bool = False) -> None:
        self._low, self._high, self._log, self._whole = low, high, log, whole

    def place(self, value: Value) -> float:
        """From 0 to 1."""
        low, high, at = map(self._bent, (self._low, self._high, float(value)))
        return (at - low) / (high - low) if high > low else 0.5

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Five, or one where all is alike."""
        low, high = self._bent(self._low), self._bent(self._high)
        if low == high:
            return [(0.5, f"{self._low:.4g}")]
        found = {}
        for number in range(5):
            at = low + (high - low) * number / 4
            value = math.exp(at) if self._log else at
            value = round(value) if self._whole else value
            found[f"{value:.4g}"] = self.place(value)
        return [(place, label) for label, place in found.items()]

    def _bent(self, value: float) -> float:
        return math.log(value) if self._log else value


class _Labels:
    """Where choices lie: evenly, in the order of the file."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._places = {
            label: number / (len(labels) - 1) if len(labels) > 1 else 0.5
            for number, label in enumerate(labels)
        }

    def place(self, value: Value) -> float:
        """From 0 to 1."""
        return self._places[str(value)]

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """All of them."""
        return [(place, label) for label, place in self._places.items()]


def _scale(dimension: Dimension) -> _Scale | _Labels:
    if isinstance(dimension, Range):
        whole = isinstance(dimension.low, int)
        return _Scale(dimension.low, dimension.high, dimension.log, whole)
    return _Labels(list(dimension.nodes))
