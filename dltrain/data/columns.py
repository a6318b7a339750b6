"""Encoding of table columns as features, fitted to the training rows."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy
import torch
from torch import Tensor

from dltrain.core.data_spec import Column, DataSpec, TableInputs
from dltrain.core.errors import DataError, shorten
from dltrain.core.protocols import Data, DataContext
from dltrain.data.in_memory import class_counts, in_memory_data
from dltrain.data.labels import find_non_number, sorted_names
from dltrain.data.splits import TEST_SEED, hold_out, split_fingerprint
from dltrain.data.table import Table


def fit_column(name: str, cells: list[str], train: list[int]) -> Column:
    """Return the mean and standard deviation, or the categories, of the training rows.

    A column is categorical if `find_non_number` finds a cell in any row.
    """
    if find_non_number(set(cells)) is not None:
        return Column(name, categories=sorted_names(cells[row] for row in train))
    values = [float(cells[row]) for row in train]
    return fit_numeric_column(name, torch.tensor(values, dtype=torch.float64))


def fit_numeric_column(name: str, values: Tensor) -> Column:
    """Return the mean and standard deviation of the training rows, (rows,) float64."""
    if values.min() == values.max():  # rounding errors of a constant must not be scaled up
        return Column(name, mean=values[0].item())
    return Column(name, values.mean().item(), values.std(correction=0).item())


def cell_text(column: Column, value: Any) -> str:
    """Return the cell of a table that holds a value given as an object.

    A number is spelled as Python spells it. A truth value is the category of that name, in
    whatever case training had it.
    """
    if isinstance(value, bool | numpy.bool_):
        text = str(value).lower()
        return next((name for name in column.categories if name.lower() == text), text)
    return str(value).strip()


def encode(columns: tuple[Column, ...], table: Table, dtype: torch.dtype) -> Tensor:
    """Encode rows as features, (rows, features): standardized numbers and one-hot categories.

    A category that does not occur in the training rows is encoded as zeros.
    """
    parts = []
    for column in columns:
        if column.categories:
            place = {category: number for number, category in enumerate(column.categories)}
            cells = table.column(column.name)
            code = torch.tensor([place.get(cell, -1) for cell in cells])
            parts.append((code[:, None] == torch.arange(column.width)).double())
        else:
            values = torch.tensor(table.numbers(column.name), dtype=torch.float64)
            features = ((values - column.mean) / column.std).to(dtype)
            _require_finite(table, column.name, values, features)
            parts.append(features[:, None])
    return torch.cat(parts, 1).to(dtype)


def _require_finite(table: Table, name: str, values: Tensor, standardised: Tensor) -> None:
    """Raise DataError if numbers are too large to be squared, or for the inputs' dtype."""
    if not standardised.isfinite().all():
        row = int(values.abs().argmax())
        raise DataError(
            f"{table.location(row)}: {shorten(name)!r} is {values[row].item()}; "
            "so large a number can't be computed with"
        )


def table_data(
    context: DataContext,
    table: Table,
    names: tuple[str, ...],
    targets: Tensor,
    *,
    class_names: tuple[str, ...],
    standardise_target: bool,
    validation: float,
    test: float,
) -> Data:
    """Split the rows, and encode all of them with the statistics of the training rows.

    Args:
        context: Context of the data source.
        table: The rows.
        names: Names of the feature columns.
        targets: (rows,) int64 classes, or (rows, 1) float64 values.
        class_names: Names of the classes; empty for values.
        standardise_target: Whether to standardize values.
        validation: See `HoldoutSize`.
        test: See `HoldoutSize`.
    """
    seen, tested = hold_out(targets, test, TEST_SEED, name="test")
    kept, held = hold_out(targets[seen], validation, context.seed, name="validation")
    train, held = seen[kept], seen[held]
    columns = tuple(fit_column(name, table.column(name), train.tolist()) for name in names)
    target = Column("target")
    content = hashlib.sha256(repr([table.column(name) for name in names]).encode())
    content.update(repr((targets.tolist(), class_names)).encode())
    if not class_names:
        if standardise_target:
            target = fit_numeric_column("target", targets[train].flatten())
        values = targets
        targets = ((values - target.mean) / target.std).to(context.dtype)
        _require_finite(table, "the target", values, targets)
    inputs = encode(columns, table, context.dtype)
    spec = DataSpec(
        input_shape=(inputs.shape[1],),
        num_outputs=len(class_names) or 1,
        inputs=TableInputs(columns, table.quote),
        class_names=class_names,
        class_counts=class_counts(targets[train], len(class_names)) if class_names else (),
        target_mean=target.mean,
        target_std=target.std,
    )
    parts = {
        name: (inputs[index], targets[index])
        for name, index in {"train": train, "validation": held, "test": tested}.items()
    }
    source = str(table.path)
    return in_memory_data(
        context,
        spec,
        parts,
        source=source,
        fingerprint=content.hexdigest(),
        split_fingerprint=split_fingerprint(train=train, validation=held, test=tested),
        files=(table.path,),
    )
