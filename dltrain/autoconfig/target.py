"""Choice of the column to predict: by its name, otherwise by its position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dltrain.autoconfig.column_types import ColumnSummary, could_be_classes, could_be_values
from dltrain.core.errors import DataError, UsageError, shorten

TARGET_NAMES = {
    "target",
    "label",
    "labels",
    "class",
    "classes",
    "y",
    "outcome",
    "output",
    "response",
}
"""Names, in lower case, that identify a target."""
LIKELY_TARGET_NAMES = {
    *("category", "churn", "default", "diagnosis", "grade", "price", "quality", "rating"),
    *("result", "score", "sentiment", "species", "stars", "survived", "type", "value"),
}
"""Names, in lower case, of many targets."""


@dataclass(frozen=True)
class Target:
    """The column to predict.

    Attributes:
        cells: The column.
        doubts: Notes on other candidates.
    """

    cells: ColumnSummary
    doubts: list[str]


def find_target(path: Path, columns: Sequence[ColumnSummary], wanted: str | None) -> Target:
    """Return the column named by the user, or the likeliest.

    Args:
        path: The file, for messages.
        columns: Candidates.
        wanted: Name given by the user.

    Raises:
        UsageError: There is no such column.
        DataError: No column can be a target.
    """
    if wanted is not None:
        for cells in columns:
            if cells.name == wanted:
                return Target(cells, [])
        names = shorten(", ".join(cells.name for cells in columns), 300)
        raise UsageError(f"--target: {path} has no column {wanted!r}; it has {names}")
    possible = [c for c in columns if could_be_classes(c) or could_be_values(c)]
    if not possible:
        reasons = "; ".join(f"{shorten(c.name)!r} {c.reason or 'is text'}" for c in columns)
        raise DataError(f"{path}: no column can be predicted: {shorten(reasons, 500)}")
    for names in (TARGET_NAMES, LIKELY_TARGET_NAMES):
        named = [cells for cells in possible if cells.name.lower() in names]
        if len(named) == 1:
            return Target(named[0], [])
        if named:
            return Target(named[-1], [_doubt(named[-1], named, "has a typical target's name")])
    if len(possible) == 1:
        return Target(possible[0], [])
    return Target(possible[-1], [_doubt(possible[-1], possible, "is the last candidate")])


def _doubt(taken: ColumnSummary, possible: Sequence[ColumnSummary], why: str) -> str:
    others = shorten(", ".join(c.name for c in possible if c is not taken), 200)
    return (
        f"the target column is a guess: {shorten(taken.name)!r} {why}; "
        f"select another with --target COLUMN: {others}"
    )
