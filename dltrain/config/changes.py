"""How a config differs from the one that a run was started with."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from dltrain.config.experiment import Experiment
from dltrain.config.problems import ConfigError

HARMLESS = (
    "name",
    "recording",
    "checkpoint.every",
    "checkpoint.keep",
    "data.root",
    "data.path",
    "data.workers",
    "data.timeout",
    "data.cache",
    "train.evaluate_batch_size",
    "train.keep_memory",
    "train.timeout",
)
"""Keys and sections that change no outcome. Moved data is recognised by its fingerprint."""

PLACE = ("name", "data.root", "data.path", "data.workers", "data.timeout", "data.cache")
"""Keys that may differ between the ranks of a run."""

ROUNDING = (
    "train.device",
    "train.micro_batch",
    "train.matmul_precision",
    "train.deterministic",
    "train.compile",
    "train.cuda_graph",
    "train.distributed",
)
"""Keys that decide where and how to compute: they change an outcome by rounding alone."""

LENGTH = ("train.epochs", "train.steps")
"""Keys that may change while a run is unfinished."""

ABSENT = object()
"""Stands for the value of a key that one of two configs does not have."""


@dataclass(frozen=True)
class Change:
    """A key whose value is not what it was.

    Attributes:
        key: Dotted, such as `optimizer.lr`.
        before: Its old value, in words.
        now: Its new value, in words.
    """

    key: str
    before: str
    now: str

    def __str__(self) -> str:
        """`optimizer.lr was 0.1 and is 0.2`."""
        return f"{self.key} was {self.before} and is {self.now}"


def changes(
    before: Mapping[str, Any], now: Mapping[str, Any], but: Collection[str] = HARMLESS
) -> list[Change]:
    """Compare two resolved configs.

    Args:
        before: Plain data, as `Experiment.to_dict` returns it.
        now: Likewise.
        but: Keys and sections to leave out.
    """
    old, new = values_of(before, but), values_of(now, but)
    renamed = {
        key.removesuffix("name")
        for key in old.keys() & new.keys()
        if key.endswith(".name") and old[key] != new[key]
    }
    found = []
    for key in dict.fromkeys([*old, *new]):
        one, other = old.get(key, ABSENT), new.get(key, ABSENT)
        of_another = any(key.startswith(prefix) and key != f"{prefix}name" for prefix in renamed)
        if one != other and not of_another:
            found.append(Change(key, _shown(one), _shown(other)))
    return found


def refuse_changes(
    experiment: Experiment, before: Mapping[str, Any], but: Collection[str], way_on: str
) -> None:
    """Refuse a config that is not the one that a run was started with.

    Args:
        experiment: The config as it is now.
        before: The config that the run was started with; see `changes`.
        but: See `changes`.
        way_on: What to do instead, the last line of the error.

    Raises:
        ConfigError: A value was changed; every changed key is named at its line.
    """
    problems = []
    for change in changes(before, experiment.to_dict(), but):
        message = f"was {change.before} when the run was started, and is {change.now}"
        problems += experiment.problem(change.key, message).problems
    if problems:
        error = ConfigError(problems)
        error.add_note(way_on)
        raise error


def values_of(config: Mapping[str, Any], but: Collection[str]) -> dict[str, Any]:
    """A resolved config's values by dotted key, less some keys and sections."""
    return {
        key: value
        for key, value in _flat(config).items()
        if not any(key == free or key.startswith(f"{free}.") for free in but)
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted key; a list is one value, and a component under its key has a name."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _shown(value: Any) -> str:
    return "not set" if value is ABSENT else json.dumps(value, ensure_ascii=False, default=str)
