"""Config suggestions for tables: classes or values from numbers and categories."""

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
"""Distance from the mean, in standard deviations, beyond which a target is an outlier."""


def suggest_table(
    table: Table,
    reading: Mapping[str, str | None],
    columns: Sequence[ColumnSummary],
    target: Target,
    task: Task | None,
) -> Suggestion:
    """Suggest a config for a CSV file.

    Args:
        table: Cells of the file.
        reading: Options that the file must be read with.
        columns: Summary of each column.
        target: Column to predict.
        task: Task given by the user.

    Raises:
        DataError: A cell is empty, a class is too rare, or no feature column is left.
        UsageError: `task` does not fit the target.
    """
    path, rows, cells = table.path, len(table.lines), target.cells
    require_samples(path, rows, "rows")
    features = [c for c in columns if c.kind in ("number", "category") and c is not cells]
    left_out = [c for c in columns if c not in features and c is not cells]
    if not features:
        raise DataError(f"{path}: no feature column is left to predict {cells.name!r}")
    _require_values(table, [*(c.name for c in features), cells.name])
    doubts = list(target.doubts)
    is_class = _is_class(path, cells, task, doubts)
    cut, kept = holdout_options(rows, "rows")
    data: dict[str, Any] = {"name": "csv", "path": str(path), **reading}
    counts = {name: cells.counts[name] for name in sorted_names(cells.counts)} if is_class else {}
    summary = format_class_counts(counts, "rows") if is_class else _format_values(cells)
    data["target"] = Explained(cells.name, summary)
    if _is_numeric(cells):
        kind = "class" if is_class else "value"
        data["target_kind"] = Explained(kind, f"{cells.distinct:,} distinct numbers")
    if is_class:
        require_enough(f"{path}: column {cells.name!r}", counts, "rows")
        chosen = classification(counts, "rows")
    else:
        data["standardise_target"] = Explained(
            True, "the initial loss is near 1 in any unit of the target"
        )
        chosen = _regression(cells)
    if left_out or table.ambiguous:
        reasons = {c.name: _reason(c) for c in left_out}
        reasons |= dict.fromkeys(table.ambiguous, "is not a unique column name")
        excluded = "; ".join(f"{shorten(name, 40)!r} {why}" for name, why in reasons.items())
        data["features"] = Explained([c.name for c in features], f"excluded: {excluded}")
    data |= cut
    train = training_length(kept, steps=2000, max_epochs=60)
    config = {
        "model": Explained(_model(kept), f"small, for {kept:,} training rows"),
        "data": Explained(data, f"{rows:,} rows; features: {_format_features(features)}"),
        "loss": chosen["loss"],
        "optimizer": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.01},
        "schedule": {"name": "one_cycle", "warmup": 0.2},
        "metrics": chosen["metrics"],
        "train": train,
        **model_selection(chosen["best"], train["epochs"].value),
    }
    seen = {
        "rows": f"{rows:,}",
        "target": f"{shorten(cells.name)}: {summary}",
        "features": f"{_format_features(features)}: {_format_names(features)}",
    }
    for column in left_out:
        seen[f"left out {shorten(column.name, 40)}"] = _reason(column)
    return Suggestion("a table", config, seen, doubts)


def _require_values(table: Table, names: Sequence[str]) -> None:
    """Raise the data source's DataError, with a note for each column that has empty cells."""
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
    """Return whether the target is a class; add to `doubts` if it could also be a value."""
    if task == "regression" and not _is_numeric(cells):
        odd = next(value for value in cells.counts if parse_number(value) is None)
        raise UsageError(
            f"--task regression: {path}: expected numbers in {cells.name!r}, got {shorten(odd)!r}"
        )
    if task is not None:
        return task == "classification"
    if cells.kind != "number":
        return True
    is_class = could_be_classes(cells)
    if is_class and cells.distinct > 2:
        doubts.append(
            f"{shorten(cells.name)!r} has {cells.distinct} distinct integers, treated as classes; "
            "--task regression treats them as values"
        )
    return is_class


def _is_numeric(cells: ColumnSummary) -> bool:
    """Return whether all cells are numbers, even if they are treated as classes by default."""
    return all(parse_number(value) is not None for value in cells.counts)


def _values(cells: ColumnSummary) -> list[float]:
    return [float(value) for value in cells.counts.elements()]


def _format_values(cells: ColumnSummary) -> str:
    values = _values(cells)
    return f"values from {format_range(values)}, mean {statistics.fmean(values):.4g}"


def _regression(cells: ColumnSummary) -> dict[str, Any]:
    """Return loss, metrics and the scalar that selects the best checkpoint, for values."""
    values = _values(cells)
    mean, deviation = statistics.fmean(values), statistics.pstdev(values)
    outlier = max(values, key=lambda value: abs(value - mean))
    loss: Any = "mse"
    if abs(outlier - mean) > OUTLIER_DEVIATIONS * deviation:
        loss = Explained("huber", f"{outlier:g} is an outlier that would dominate a squared error")
    reason = (
        "mae is the mean absolute error in the target's unit; r2 is 1 for perfect predictions, "
        "0 for always predicting the mean"
    )
    return {"loss": loss, "metrics": Explained(["mae", "r2"], reason), "best": "val/mae"}


def _model(samples: int) -> dict[str, Any]:
    for limit, hidden in ((200, [16]), (2_000, [32, 32]), (20_000, [64, 64])):
        if samples < limit:
            return {"name": "mlp", "hidden": hidden, "dropout": 0.1}
    return {"name": "mlp", "hidden": [128, 128], "dropout": 0.1}


def _reason(cells: ColumnSummary) -> str:
    return cells.reason or "contains texts; --text COLUMN uses them as input instead"


def _format_features(features: Sequence[ColumnSummary]) -> str:
    numbers = sum(cells.kind == "number" for cells in features)
    kinds = ((numbers, "number"), (len(features) - numbers, "category"))
    parts = [f"{n} column{'s' if n > 1 else ''} of {_plural(kind)}" for n, kind in kinds if n]
    return " and ".join(parts)


def _plural(kind: str) -> str:
    return {"number": "numbers", "category": "categories"}[kind]


def _format_names(columns: Sequence[ColumnSummary]) -> str:
    return shorten(", ".join(shorten(cells.name, 40) for cells in columns), 200)
