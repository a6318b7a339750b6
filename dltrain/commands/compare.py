"""Compare runs: the differences of their configs and results, averaged over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dltrain.commands.runs import find_runs
from dltrain.config import values_of
from dltrain.core.errors import RunError, escape_control_characters
from dltrain.core.jsonable import to_csv
from dltrain.core.paths import as_paths
from dltrain.reporting.formatting import format_number
from dltrain.reporting.html import document, paragraph, table
from dltrain.rundir.directory import Run
from dltrain.rundir.summary import Summary


@dataclass(frozen=True)
class Statistic:
    """Mean and standard deviation of a value over the runs of a group.

    Attributes:
        mean: Mean over the runs.
        deviation: Sample standard deviation (n - 1); None for a single run.
        count: Number of runs that have the value.
    """

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        """Return mean ± standard deviation."""
        spread = "" if self.deviation is None else f" ± {format_number(self.deviation, 2)}"
        return f"{format_number(self.mean)}{spread}"


@dataclass(frozen=True)
class Group:
    """Runs whose configs differ in `seed` only.

    Attributes:
        runs: Run directory of each.
        seeds: Seed of each.
        states: State of each; `outcome` covers the runs in state `done`.
        config: The values that differ between groups, by `section.key`; None where the group has
            no such key.
        outcome: Statistics by name: `best SCALAR`, the last values of `val` and `test`, `seconds`
            and `samples_per_second`.
        reason: Why its single run is `damaged`; None for any other group.
    """

    runs: list[str]
    seeds: list[int]
    states: list[str]
    config: dict[str, str | None]
    outcome: dict[str, Statistic]
    reason: str | None = None


def compare(paths: str | Path | Iterable[str | Path]) -> list[Group]:
    """Group runs by config, and collect what differs between the groups.

    A damaged run forms a group of its own, at the end.

    Args:
        paths: One or several run directories, or directories that contain runs.

    Raises:
        RunError: There is no run, or none can be read.
    """
    paths = as_paths(paths)
    runs = {run.directory.resolve(): run for path in paths for run in find_runs(path)}
    if not runs:
        raise RunError(f"no run found in {', '.join(map(str, paths))}")
    read, damaged = [], {}
    for run in runs.values():
        try:
            run.verify()
            read.append((run, run.state, run.summary(), _flat_config(run)))
        except RunError as error:
            damaged[str(run.directory)] = error
    if not read:
        raise next(iter(damaged.values()))
    configs = [(run, config) for run, _, _, config in read]
    results = {run.directory: (state, summary) for run, state, summary, _ in read}
    groups: dict[tuple, list[tuple[Run, dict[str, str]]]] = {}
    for run, config in configs:
        without_seed = tuple(sorted(item for item in config.items() if item[0] != "seed"))
        groups.setdefault(without_seed, []).append((run, config))
    keys = dict.fromkeys(key for _, config in configs for key in config if key != "seed")
    firsts = [members[0][1] for members in groups.values()]
    differing = [key for key in keys if len({first.get(key) for first in firsts}) > 1]
    absent = dict.fromkeys(differing)
    return [
        *(_group(members, differing, results) for members in groups.values()),
        *(Group([run], [], ["damaged"], absent, {}, str(e)) for run, e in damaged.items()),
    ]


def _group(
    members: Sequence[tuple[Run, dict[str, str]]],
    differing: Sequence[str],
    results: Mapping[Path, tuple[str, Summary | None]],
) -> Group:
    runs = [run for run, _ in members]
    config = members[0][1]
    own = [results[run.directory] for run in runs]
    measured: dict[str, list[float]] = {}
    for state, summary in own:
        if state == "done" and summary is not None:
            for name, value in _values(summary).items():
                measured.setdefault(name, []).append(value)
    return Group(
        runs=[str(run.directory) for run in runs],
        seeds=[int(each.get("seed", "0")) for _, each in members],
        states=[state for state, _ in own],
        config={key: config.get(key) for key in differing},
        outcome={
            name: Statistic(mean(values), stdev(values) if len(values) > 1 else None, len(values))
            for name, values in measured.items()
        },
    )


def _values(summary: Summary) -> dict[str, float]:
    """Return the values of a run that are compared, by name."""
    best = {f"best {summary.best['metric']}": summary.best["value"]} if summary.best else {}
    metrics = {
        name: value
        for name, value in summary.metrics.items()
        if name.startswith(("val/", "test/")) and value is not None
    }
    speed = {"seconds": summary.seconds, "samples_per_second": summary.samples_per_second}
    return {**best, **metrics, **speed}


def _flat_config(run: Run) -> dict[str, str]:
    """Return the resolved config by `section.key`."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, default=str)
        for key, value in values_of(run.config(), ()).items()
    }


def table_rows(groups: Sequence[Group]) -> list[list[str]]:
    """Return the rows of a table with a column for each group: a row's name, then its cells."""
    names = dict.fromkeys(name for group in groups for name in group.outcome)
    return [
        ["seeds", *(" ".join(map(str, group.seeds)) for group in groups)],
        ["state", *(", ".join(dict.fromkeys(group.states)) for group in groups)],
        *(
            [key, *("-" if (value := group.config[key]) is None else value for group in groups)]
            for key in groups[0].config
        ),
        *([name, *(str(group.outcome.get(name, "-")) for group in groups)] for name in names),
    ]


def group_labels(groups: Sequence[Group]) -> list[str]:
    """Return a short label for each group: A to Z, then A2, B2 and so on."""
    return [
        f"{chr(ord('A') + number % 26)}{number // 26 + 1 if number >= 26 else ''}"
        for number in range(len(groups))
    ]


def groups_to_csv(groups: Sequence[Group]) -> str:
    """Return a CSV line for each group, with three columns for each statistic."""
    names = dict.fromkeys(name for group in groups for name in group.outcome)
    columns = [f"{name} {part}" for name in names for part in ("mean", "deviation", "runs")]
    lines: list[list[Any]] = [["runs", "seeds", "states", *groups[0].config, *columns]]
    for group in groups:
        cells: list[Any] = [" ".join(map(str, p)) for p in (group.runs, group.seeds, group.states)]
        cells += group.config.values()
        for name in names:
            found = group.outcome.get(name)
            cells += [found.mean, found.deviation, found.count] if found else [None, None, 0]
        lines.append(cells)
    shown = [
        [escape_control_characters(c) if isinstance(c, str) else c for c in line] for line in lines
    ]
    return to_csv(shown)


def groups_to_html(groups: Sequence[Group]) -> str:
    """Return a self-contained HTML page with the table."""
    labels = group_labels(groups)
    runs = [(label, " ".join(group.runs)) for label, group in zip(labels, groups, strict=True)]
    body = [
        "<header><h1>Comparison of runs</h1></header><main>",
        table(["", *labels], table_rows(groups)),
        paragraph("Values are mean ± standard deviation over the runs of a group.", "soft"),
        table(["group", "runs"], runs, "words"),
        "</main>",
    ]
    return document("Comparison of runs - dltrain", "".join(body))
