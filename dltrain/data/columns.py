"""Columns of cells to features, by what the training rows say."""

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
    """Mean and standard deviation, or the categories, of the training rows.

    A column with a cell that is no number in the sense of `no_number`, in whatever row, is one of
    categories.
    """
    if find_non_number(set(cells)) is not None:
        return Column(name, categories=sorted_names(cells[row] for row in train))
    values = [float(cells[row]) for row in train]
    return fit_numeric_column(name, torch.tensor(values, dtype=torch.float64))


def fit_numeric_column(name: str, values: Tensor) -> Column:
    """Mean and standard deviation of the training rows, (rows,) float64."""
    if values.min() == values.max():  # rounding must not blow a constant up
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
    """Rows to features, (rows, features): standardised numbers, and categories as one-hot.

    A category that training did not have becomes all zeros.
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
    """Numbers that are finite alone may be too large to square, or for the type of the inputs."""
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
    """Cuts the rows, and encodes all of them by what the training rows say.

    Args:
        context: As a source gets it.
        table: The rows.
        names: The columns to predict from.
        targets: (rows,) int64 classes, or (rows, 1) float64 values.
        class_names: Empty for values.
        standardise_target: For values.
        validation: See `HeldOut`.
        test: See `HeldOut`.
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
