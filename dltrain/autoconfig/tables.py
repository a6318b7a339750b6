"""What to propose for a table: classes or values from numbers and categories."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dltrain.autoconfig.column_types import ColumnSummary, could_be_classes
from dltrain.autoconfig.config_draft import Explained, Suggestion
from dltrain.autoconfig.target import Target
from dltrain.autoconfig.training import (
    classification,
    format_class_counts,
    format_range,
    holdout_options,
    model_selection,
    require_enough,
    require_samples,
    training_length,
)
from dltrain.core.errors import DataError, UsageError, shorten
from dltrain.data.labels import sorted_names
from dltrain.data.table import Table, is_missing, parse_number

Task = Literal["classification", "regression"]

OUTLIER_DEVIATIONS = 6.0
"""A target so many standard deviations from the mean would rule a squared error."""


def suggest_table(
    table: Table,
    reading: Mapping[str, str | None],
    columns: Sequence[ColumnSummary],
    target: Target,
    task: Task | None,
) -> Suggestion:
    """For a CSV file.

    Args:
        table: Its cells.
        reading: Options that it must be read with.
        columns: What each column holds.
        target: The one to predict.
        task: What the user says.

    Raises:
        DataError: A cell is empty, a class is too rare, or no column is left to predict from.
        UsageError: The target can't be what `task` says.
    """
    path, rows, cells = table.path, len(table.lines), target.cells
    require_samples(path, rows, "rows")
    features = [c for c in columns if c.kind in ("number", "category") and c is not cells]
    left_out = [c for c in columns if c not in features and c is not cells]
    if not features:
        raise DataError(f"{path}: no column is left to predict {cells.name!r} from")
    _require_values(table, [*(c.name for c in features), cells.name])
    doubts = list(target.doubts)
    is_class = _is_class(path, cells, task, doubts)
    cut, kept = holdout_options(rows, "rows")
    data: dict[str, Any] = {"name": "csv", "path": str(path), **reading}
    counts = {name: cells.counts[name] for name in sorted_names(cells.counts)} if is_class else {}
    told = format_class_counts(counts, "rows") if is_class else _format_values(cells)
    data["target"] = Explained(cells.name, told)
    if _is_numeric(cells):
        kind = "class" if is_class else "value"
        data["target_kind"] = Explained(kind, f"{cells.distinct:,} different numbers")
    if is_class:
        require_enough(f"{path}: column {cells.name!r}", counts, "rows")
        chosen = classification(counts, "rows")
    else:
        data["standardise_target"] = Explained(
            True, "so that the loss begins near 1, whatever unit"
        )
        chosen = _regression(cells)
    if left_out or table.ambiguous:
        reasons = {c.name: _reason(c) for c in left_out}
        reasons |= dict.fromkeys(table.ambiguous, "is no name for one column")
        why = "left out: " + "; ".join(f"{shorten(n, 40)!r} {why}" for n, why in reasons.items())
        data["features"] = Explained([c.name for c in features], why)
    data |= cut
    train = training_length(kept, steps=2000, max_epochs=60)
    config = {
        "model": Explained(_model(kept), f"small, for {kept:,} rows to train on"),
        "data": Explained(data, f"{rows:,} rows, {_format_features(features)} to predict from"),
        "loss": chosen["loss"],
        "optimizer": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.01},
        "schedule": {"name": "one_cycle", "warmup": 0.2},
        "metrics": chosen["metrics"],
        "train": train,
        **model_selection(chosen["best"], train["epochs"].value),
    }
    seen = {
        "rows": f"{rows:,}",
        "target": f"{shorten(cells.name)}: {told}",
        "features": f"{_format_features(features)}: {_format_names(features)}",
    }
    for column in left_out:
        seen[f"left out {shorten(column.name, 40)}"] = _reason(column)
    return Suggestion("a table", config, seen, doubts)


def _require_values(table: Table, names: Sequence[str]) -> None:
    """What the source refuses, with all columns that lack something."""
    try:
        table.require_values(names)
    except DataError as error:
        for name in names:
            cells = table.column(name)
            empty = [n for n, c in zip(table.lines, cells, strict=True) if is_missing(c)]
            if empty:
                lines = shorten(", ".join(map(str, empty)), 60)
                error.add_note(
                    f"{shorten(name)!r} has no value in {len(empty):,} of {len(cells):,} rows: "
                    f"line{'s' if len(empty) > 1 else ''} {lines}"
                )
        raise


def _is_class(path: Path, cells: ColumnSummary, task: Task | None, doubts: list[str]) -> bool:
    """Whether the target is a class; where it could be a value as well, that is a doubt."""
    if task == "regression" and not _is_numeric(cells):
        odd = next(value for value in cells.counts if parse_number(value) is None)
        raise UsageError(
            f"--task regression: {path}: {cells.name!r} has {shorten(odd)!r}, which is no number"
        )
    if task is not None:
        return task == "classification"
    if cells.kind != "number":
        return True
    is_class = could_be_classes(cells)
    if is_class and cells.distinct > 2:
        doubts.append(
            f"{shorten(cells.name)!r} has {cells.distinct} whole numbers, taken for classes; "
            "--task regression takes them for values"
        )
    return is_class


def _is_numeric(cells: ColumnSummary) -> bool:
    """Whether the cells can be values, also those that are classes unless the user says so."""
    return all(parse_number(value) is not None for value in cells.counts)


def _values(cells: ColumnSummary) -> list[float]:
    return [float(value) for value in cells.counts.elements()]


def _format_values(cells: ColumnSummary) -> str:
    values = _values(cells)
    return f"values from {format_range(values)}, {statistics.fmean(values):.4g} on average"


def _regression(cells: ColumnSummary) -> dict[str, Any]:
    """Loss, metrics and the scalar that chooses, for values."""
    values = _values(cells)
    mean, deviation = statistics.fmean(values), statistics.pstdev(values)
    far = max(values, key=lambda value: abs(value - mean))
    loss: Any = "mse"
    if abs(far - mean) > OUTLIER_DEVIATIONS * deviation:
        loss = Explained("huber", f"{far:g} is far from the others, and would rule a squared error")
    why = "mae is the average error in the target's own unit; r2 is 1 at best, 0 for a mere mean"
    return {"loss": loss, "metrics": Explained(["mae", "r2"], why), "best": "val/mae"}


def _model(samples: int) -> dict[str, Any]:
    for limit, hidden in ((200, [16]), (2_000, [32, 32]), (20_000, [64, 64])):
        if samples < limit:
            return {"name": "mlp", "hidden": hidden, "dropout": 0.1}
    return {"name": "mlp", "hidden": [128, 128], "dropout": 0.1}


def _reason(cells: ColumnSummary) -> str:
    return cells.reason or "has texts; --text COLUMN learns from them instead"


def _format_features(features: Sequence[ColumnSummary]) -> str:
    numbers = sum(cells.kind == "number" for cells in features)
    kinds = ((numbers, "number"), (len(features) - numbers, "category"))
    parts = [f"{n} column{'s' if n > 1 else ''} of {_plural(kind)}" for n, kind in kinds if n]
    return " and ".join(parts)


def _plural(kind: str) -> str:
    return {"number": "numbers", "category": "categories"}[kind]


def _format_names(columns: Sequence[ColumnSummary]) -> str:
    return shorten(", ".join(shorten(cells.name, 40) for cells in columns), 200)
