"""Compare a config with the one that a run was started with."""

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
"""Keys and sections that do not affect results. Moved data is recognized by its fingerprint."""

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
"""Keys that select how to compute. They affect results by rounding errors only."""

LENGTH = ("train.epochs", "train.steps")
"""Keys that may change before a run is finished."""

ABSENT = object()
"""Value of a key that a config does not have."""


@dataclass(frozen=True)
class Change:
    """A key whose value has changed.

    Attributes:
        key: Dotted key, such as `optimizer.lr`.
        before: Old value, as JSON, or `not set`.
        now: New value, in the same form.
    """

    key: str
    before: str
    now: str

    def __str__(self) -> str:
        """Return a text such as `optimizer.lr was 0.1 and is 0.2`."""
        return f"{self.key} was {self.before} and is {self.now}"


def changes(
    before: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str] = HARMLESS
) -> list[Change]:
    """Compare two resolved configs.

    Args:
        before: Old config, as `Experiment.to_dict` returns it.
        now: New config, in the same form.
        ignored: Keys and sections to ignore.
    """
    old, new = values_of(before, ignored), values_of(now, ignored)
    renamed = {
        key.removesuffix("name")
        for key in old.keys() & new.keys()
        if key.endswith(".name") and old[key] != new[key]
    }
    found = []
    for key in dict.fromkeys([*old, *new]):
        value, new_value = old.get(key, ABSENT), new.get(key, ABSENT)
        is_option = any(key.startswith(prefix) and key != f"{prefix}name" for prefix in renamed)
        if value != new_value and not is_option:
            found.append(Change(key, _format(value), _format(new_value)))
    return found


def refuse_changes(
    experiment: Experiment, before: Mapping[str, Any], ignored: Collection[str], hint: str
) -> None:
    """Raise an error if a config differs from the one that a run was started with.

    Args:
        experiment: Current config.
        before: Config that the run was started with; see `changes`.
        ignored: Keys and sections to ignore.
        hint: What to do instead, the last line of the error.

    Raises:
        ConfigError: A value has changed. The error names every changed key with its line.
    """
    problems = []
    for change in changes(before, experiment.to_dict(), ignored):
        message = f"expected {change.before}, as when the run was started, got {change.now}"
        problems += experiment.problem(change.key, message).problems
    if problems:
        error = ConfigError(problems)
        error.add_note(hint)
        raise error


def values_of(config: Mapping[str, Any], ignored: Collection[str]) -> dict[str, Any]:
    """Return a resolved config's values by dotted key, except ignored keys and sections."""
    return {
        key: value
        for key, value in _flatten(config).items()
        if not any(key == entry or key.startswith(f"{entry}.") for entry in ignored)
    }


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return values by dotted key. A list is one value."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= _flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _format(value: Any) -> str:
    return "not set" if value is ABSENT else json.dumps(value, ensure_ascii=False, default=str)
