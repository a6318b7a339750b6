"""What differs between runs, in config and in outcome; runs with other seeds alone are one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dltrain.commands.runs import find_runs
from dltrain.core.errors import RunError, visible
from dltrain.core.jsonable import to_csv
from dltrain.core.paths import as_paths
from dltrain.reporting.html import document, paragraph, table
from dltrain.rundir.directory import Run, Summary


@dataclass(frozen=True)
class Outcome:
    """A figure over the runs of a group.

    Attributes:
        mean: Over them.
        deviation: Their standard deviation, as of a sample (n - 1); None of one run.
        count: How many have it.
    """

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        """Mean ± deviation."""
        spread = "" if self.deviation is None else f" ± {_short(self.deviation, 2)}"
        return f"{_short(self.mean, 5)}{spread}"


def _short(value: float, digits: int) -> str:
    """So many digits, and all of those before the point: 4587, not 4.6e+03."""
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e7 else f"{value:.{digits}g}"


@dataclass(frozen=True)
class Group:
    """Runs whose configs differ in nothing but `seed`.

    Attributes:
        runs: Their directories.
        seeds: Of each.
        states: Of each; only those that are `done` count in `outcome`.
        config: The values that are not the same in every group, by `section.key`; None where a
            group has no such key.
        outcome: By name: `best SCALAR`, what was last measured on `val` and `test`, `seconds`, and
            `samples_per_second`.
        reason: Why its one run is `damaged`; None in every other group.
    """

    runs: list[str]
    seeds: list[int]
    states: list[str]
    config: dict[str, str | None]
    outcome: dict[str, Outcome]
    reason: str | None = None


def compare(paths: str | Path | Iterable[str | Path]) -> list[Group]:
    """Groups runs by config, and says in what the groups differ.

    Args:
        paths: Run directories, or directories that hold some; or one of them.

    Raises:
        RunError: There is no run, or none can be read. One that can't is a group of its own, at
            the end.
    """
    paths = as_paths(paths)
    runs = {run.directory.resolve(): run for path in paths for run in find_runs(path)}
    if not runs:
        raise RunError(f"there is no run in {', '.join(map(str, paths))}")
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
    ended = {run.directory: (state, summary) for run, state, summary, _ in read}
    groups: dict[tuple, list[tuple[Run, dict[str, str]]]] = {}
    for run, config in configs:
        kind = tuple(sorted((key, value) for key, value in config.items() if key != "seed"))
        groups.setdefault(kind, []).append((run, config))
    keys = dict.fromkeys(key for _, config in configs for key in config if key != "seed")
    firsts = [members[0][1] for members in groups.values()]
    differing = [key for key in keys if len({first.get(key) for first in firsts}) > 1]
    nothing = dict.fromkeys(differing)
    return [
        *(_group(members, differing, ended) for members in groups.values()),
        *(Group([run], [], ["damaged"], nothing, {}, str(e)) for run, e in damaged.items()),
    ]


def _group(
    members: Sequence[tuple[Run, dict[str, str]]],
    differing: Sequence[str],
    outcomes: Mapping[Path, tuple[str, Summary | None]],
) -> Group:
    runs = [run for run, _ in members]
    config = members[0][1]
    ended = [outcomes[run.directory] for run in runs]
    figures: dict[str, list[float]] = {}
    for state, summary in ended:
        if state == "done" and summary is not None:
            for name, value in _figures(summary).items():
                figures.setdefault(name, []).append(value)
    return Group(
        runs=[str(run.directory) for run in runs],
        seeds=[int(own.get("seed", "0")) for _, own in members],
        states=[state for state, _ in ended],
        config={key: config.get(key) for key in differing},
        outcome={
            name: Outcome(mean(values), stdev(values) if len(values) > 1 else None, len(values))
            for name, values in figures.items()
        },
    )


def _figures(summary: Summary) -> dict[str, float]:
    best = {f"best {summary.best['metric']}": summary.best["value"]} if summary.best else {}
    measured = {
        name: value
        for name, value in summary.metrics.items()
        if name.startswith(("val/", "test/")) and value is not None
    }
    speed = {"seconds": summary.seconds, "samples_per_second": summary.samples_per_second}
    return {**best, **measured, **speed}


def _flat_config(run: Run) -> dict[str, str]:
    """The resolved config by `section.key`."""
    return _flat(run.config(), "")


def _flat(tree: Mapping[str, Any], prefix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = (
                value if isinstance(value, str) else json.dumps(value, default=str)
            )
    return found


def rows(groups: Sequence[Group]) -> list[list[str]]:
    """A table with a column for each group: a row's name, then its cells."""
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


def letters(groups: Sequence[Group]) -> list[str]:
    """A short name for each group: A, B, and after Z, A2."""
    return [
        f"{chr(ord('A') + number % 26)}{number // 26 + 1 if number >= 26 else ''}"
        for number in range(len(groups))
    ]


def as_csv(groups: Sequence[Group]) -> str:
    """A line for each group, for a spreadsheet: three columns for each figure."""
    names = dict.fromkeys(name for group in groups for name in group.outcome)
    figures = [f"{name} {part}" for name in names for part in ("mean", "deviation", "runs")]
    lines: list[list[Any]] = [["runs", "seeds", "states", *groups[0].config, *figures]]
    for group in groups:
        cells: list[Any] = [" ".join(map(str, p)) for p in (group.runs, group.seeds, group.states)]
        cells += group.config.values()
        for name in names:
            one = group.outcome.get(name)
            cells += [one.mean, one.deviation, one.count] if one else [None, None, 0]
        lines.append(cells)
    shown = [[visible(c) if isinstance(c, str) else c for c in line] for line in lines]
    return to_csv(shown)


def as_html(groups: Sequence[Group]) -> str:
    """A page with the table, which needs nothing else."""
    named = list(zip(letters(groups), groups, strict=True))
    body = [
        "<header><h1>Comparison of runs</h1></header><main>",
        table(["", *(letter for letter, _ in named)], rows(groups)),
        paragraph("Figures are the mean ± standard deviation over the runs of a group.", "soft"),
        table(["group", "runs"], [(letter, " ".join(g.runs)) for letter, g in named], "words"),
        "</main>",
    ]
    return document("Comparison of runs - dltrain", "".join(body))
