"""Rows of numbers and categories: CSV files, and scikit-learn's breast cancer table."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from dltrain.data.resident import class_counts, resident_data
from dltrain.data.splits import TEST_SEED, HeldOut, hold_out
from dltrain.errors import DataError
from dltrain.registry import DATA
from dltrain.spec import Column, Data, DataContext, DataSpec, TableInputs

MISSING = frozenset({"", "na", "n/a", "nan", "null", "?"})
"""Cells, in lower case, that stand for no value."""

MAX_AUTO_CLASSES = 20
"""Whole numbers of more values than this are no classes, unless `target_kind` says so."""


@dataclass(frozen=True)
class Table:
    """A CSV file's cells, column by column, none of them missing.

    Attributes:
        path: The file.
        lines: The line number of each row.
        columns: Name to cells.
    """

    path: Path
    lines: list[int]
    columns: dict[str, list[str]]

    def column(self, name: str) -> list[str]:
        """The cells of a column; DataError if there is none of that name."""
        if name not in self.columns:
            raise DataError(
                f"{self.path}: has no column {name!r}; it has {', '.join(self.columns)}"
            )
        return self.columns[name]

    def numbers(self, name: str) -> list[float]:
        """The cells of a column as numbers; DataError, with the line, where one is none."""
        values = []
        for line, cell in zip(self.lines, self.column(name), strict=True):
            value = number(cell)
            if value is None:
                raise DataError(f"{self.path}:{line}: {name!r} is {cell!r}; a number is wanted")
            values.append(value)
        return values


def read_table(path: Path, delimiter: str) -> Table:
    """Reads a CSV file with a header, in UTF-8.

    Raises:
        DataError: The file can't be read, a row has more or fewer cells than the header, a cell is
            empty or not a finite number where it looks like one; with the line number.
    """
    lines: list[int] = []
    rows: list[list[str]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if not all(header) or len(set(header)) != len(header) or not header:
                raise DataError(f"{path}:1: column names must be there, and differ: {header}")
            for row in reader:
                if not row:  # an empty line
                    continue
                cells = [cell.strip() for cell in row]
                _check_row(f"{path}:{reader.line_num}", header, cells)
                lines.append(reader.line_num)
                rows.append(cells)
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8: {error}") from error
    if not rows:
        raise DataError(f"{path}: has no rows")
    columns = [list(cells) for cells in zip(*rows, strict=True)]
    return Table(path, lines, dict(zip(header, columns, strict=True)))


def _check_row(place: str, header: list[str], cells: list[str]) -> None:
    if len(cells) != len(header):
        raise DataError(f"{place}: {len(cells)} cells, the header has {len(header)}")
    for name, cell in zip(header, cells, strict=True):
        value = number(cell)
        if cell.lower() in MISSING or (value is not None and not math.isfinite(value)):
            raise DataError(
                f"{place}: {name!r} is {cell or 'empty'}; fill in a value or take the row out"
            )


def number(cell: str) -> float | None:
    """The cell's number, or None."""
    try:
        return None if "_" in cell else float(cell)  # Python takes 1_000 for a number
    except ValueError:
        return None


def fit_column(name: str, cells: list[str], train: list[int]) -> Column:
    """Mean and standard deviation, or the categories, of the training rows.

    A column with any cell that is no number, in whatever row, is one of categories.
    """
    values = [number(cell) for cell in cells]
    if any(value is None for value in values):
        return Column(name, categories=tuple(sorted({cells[row] for row in train})))
    seen = torch.tensor(values, dtype=torch.float64)[train]
    if seen.min() == seen.max():  # rounding must not blow a constant up
        return Column(name, mean=seen[0].item())
    return Column(name, seen.mean().item(), seen.std(correction=0).item())


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
            parts.append(((values - column.mean) / column.std)[:, None])
    return torch.cat(parts, 1).to(dtype)


@DATA.register("csv")
def csv_table(
    context: DataContext,
    /,
    *,
    path: str,
    target: str,
    features: tuple[str, ...] | None = None,
    target_kind: Literal["auto", "class", "value"] = "auto",
    standardise_target: bool = False,
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ",",
    validation: HeldOut = 0.1,
    test: HeldOut = 0.1,
) -> Data:
    """Your own table: a CSV file with a header, each row a sample.

    Columns of numbers are standardised by the training rows; columns with any cell that is no number
    are categories, each of which becomes a feature of 0 or 1. Empty cells are refused.

    Args:
        path: The file, from the working directory or else from the common data folder.
        target: The column to predict.
        features: The columns to predict from; all others if not given.
        target_kind: Whether the target is a class or a value; auto takes it for a class where it
            has a cell that is no number, or whole numbers of at most 20 values.
        standardise_target: Train on values with mean 0 and standard deviation 1; predictions are
            converted back.
        delimiter: The character between cells.
        validation: Training rows to validate on: a number, or a fraction.
        test: Rows to test on: a number, or a fraction.
    """
    file = Path(path).expanduser()
    if not file.exists() and (context.root / file).exists():
        file = context.root / file
    table = read_table(file, delimiter)
    cells = table.column(target)
    names = features if features is not None else tuple(n for n in table.columns if n != target)
    if not names or target in names or len(set(names)) != len(names):
        raise DataError(f"data.features: {', '.join(names) or 'none'}; give columns but {target!r}")
    for name in names:
        _warn_of_mixture(context, table, name)
    if target_kind == "class" or (target_kind == "auto" and _looks_like_classes(cells)):
        targets, class_names = _classes(cells)
        if len(class_names) < 2:
            raise DataError(f"{file}: {target!r} is {class_names[0]!r} in every row")
        if standardise_target:
            raise DataError(f"data.standardise_target: {target!r} has classes, not values")
    else:
        targets = torch.tensor(table.numbers(target), dtype=torch.float64)[:, None]
        class_names = ()
    return _table_data(
        context,
        table,
        names,
        targets,
        class_names=class_names,
        standardise_target=standardise_target,
        validation=validation,
        test=test,
    )


@DATA.register
def breast_cancer(
    context: DataContext,
    /,
    *,
    validation: HeldOut = 0,
    test: HeldOut = 0.2,
) -> Data:
    """Wisconsin diagnostic breast cancer: 569 rows of 30 numbers, malignant (0) or benign (1).

    The table that comes with scikit-learn; Street, Wolberg and Mangasarian, 1993.

    Args:
        validation: Training rows to validate on: a number, or a fraction.
        test: Rows to test on: a number, or a fraction.
    """
    package = importlib.util.find_spec("sklearn")  # finds the folder, imports nothing
    if package is None or package.origin is None:
        raise DataError("breast_cancer needs scikit-learn: pip install 'dltrain[samples]'")
    path = Path(package.origin).parent / "datasets" / "data" / "breast_cancer.csv"
    with path.open(encoding="utf-8", newline="") as file:
        (_, _, *class_names), *rows = csv.reader(file)
    measures = (
        *("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity"),
        *("concave points", "symmetry", "fractal dimension"),
    )
    names = (
        *(f"mean {measure}" for measure in measures),
        *(f"{measure} error" for measure in measures),
        *(f"worst {measure}" for measure in measures),
    )
    *columns, labels = (list(cells) for cells in zip(*rows, strict=True))
    table = Table(path, list(range(2, len(rows) + 2)), dict(zip(names, columns, strict=True)))
    return _table_data(
        context,
        table,
        names,
        torch.tensor([int(label) for label in labels]),
        class_names=tuple(class_names),
        standardise_target=False,
        validation=validation,
        test=test,
    )


def _table_data(
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
    content.update(repr(targets.tolist()).encode())
    if not class_names:
        if standardise_target:
            cells = [str(value) for value in targets.flatten().tolist()]
            target = fit_column("target", cells, train.tolist())
        targets = ((targets - target.mean) / target.std).to(context.dtype)
    inputs = encode(columns, table, context.dtype)
    spec = DataSpec(
        input_shape=(inputs.shape[1],),
        num_outputs=len(class_names) or 1,
        inputs=TableInputs(columns),
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
    return resident_data(context, spec, parts, source=source, fingerprint=content.hexdigest())


def _looks_like_classes(cells: list[str]) -> bool:
    values = {number(cell) for cell in cells}
    if None in values:
        return True
    return len(values) <= MAX_AUTO_CLASSES and all(v is not None and v.is_integer() for v in values)


def _classes(cells: list[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Class numbers and names, in the order of the numbers if all names are numbers."""
    values = [number(cell) for cell in cells]
    if None not in values:
        cells = [f"{value:g}" for value in values]  # 1 and 1.0 are one class
        class_names = sorted(set(cells), key=float)
    else:
        class_names = sorted(set(cells))
    place = {name: number for number, name in enumerate(class_names)}
    return torch.tensor([place[cell] for cell in cells]), tuple(class_names)


def _warn_of_mixture(context: DataContext, table: Table, name: str) -> None:
    """Says which cell makes a column that has numbers one of categories: it may be a slip."""
    values = [number(cell) for cell in table.column(name)]
    if None in values and any(value is not None for value in values):
        row = values.index(None)
        context.say(
            f"{table.path}:{table.lines[row]}: {name!r} is {table.column(name)[row]!r}, no number: "
            "the whole column is taken for categories"
        )
