"""Data from the user's CSV or TSV file."""

from __future__ import annotations

from typing import Literal

import torch

from dltrain.core.errors import DataError, OptionError, shorten
from dltrain.core.option_types import Quote
from dltrain.core.paths import ConfigPath, resolve_path
from dltrain.core.protocols import Data, DataContext
from dltrain.core.registry import DATA
from dltrain.data.columns import table_data
from dltrain.data.labels import class_indices, find_non_number, sorted_names, warn_about_spellings
from dltrain.data.splits import HoldoutSize
from dltrain.data.table import Table, parse_number
from dltrain.data.table_reading import Delimiter, read_table

MAX_AUTO_CLASSES = 20
"""Maximum number of distinct integers that `target_kind: auto` treats as classes."""


@DATA.register("csv")
def csv_table(
    context: DataContext,
    /,
    *,
    path: ConfigPath,
    target: str,
    features: tuple[str, ...] | None = None,
    target_kind: Literal["auto", "class", "value"] = "auto",
    standardise_target: bool = False,
    delimiter: Delimiter | None = None,
    quote: Quote = "auto",
    validation: HoldoutSize = 0.1,
    test: HoldoutSize = 0.1,
) -> Data:
    """Your own table: a CSV file with a header, one sample per row.

    Numeric columns are standardized with the mean and standard deviation of the training rows.
    Other columns are categorical, with one-hot encoding: those with any cell that is not a number,
    with leading zeros, such as postal codes, or with integers too large to be distinguished as
    float64. Categories and classes are compared as text: 1 and 1.0 are distinct. Used columns may
    not have empty cells.

    ```yaml
    data: {name: csv, path: houses.csv, target: price, standardise_target: true}
    ```

    >>> import tempfile
    >>> from pathlib import Path
    >>> from dltrain.core.protocols import DataContext
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory, "flowers.csv")
    ...     _ = path.write_text("width,kind\\n" + "1.5,iris\\n2.5,rose\\n" * 10)
    ...     data = csv_table(DataContext(Path(directory)), path=str(path), target="kind")
    >>> data.spec.class_names, len(data.train), len(data.validation), len(data.test)
    (('iris', 'rose'), 16, 2, 2)

    Args:
        path: The file, relative to the working directory or else to the common data directory.
        target: Column to predict.
        features: Input columns (default: all other columns).
        target_kind: class, value, or auto: a class if the column is categorical or has at most 20
            distinct integers.
        standardise_target: Whether to train on target values with mean 0 and standard deviation
            1; predictions are converted back.
        delimiter: Character between cells (default: a tab in .tsv files, otherwise a comma).
        quote: Character that encloses cells with delimiters or line breaks; auto is a double
            quote, or none in tab-separated files; null is none.
        validation: Validation rows, taken from the training set: a number, or a fraction.
        test: Test rows: a number, or a fraction.
    """
    file = resolve_path(path, context.root)
    table = read_table(file, delimiter, quote)
    if features is None:
        table.require_names()
    cells = table.column(target)
    names = features if features is not None else tuple(n for n in table.columns if n != target)
    if not names or target in names or len(set(names)) != len(names):
        raise OptionError(
            "features",
            f"expected distinct columns without the target {target!r}, "
            f"got {', '.join(names) or 'none'}",
        )
    table.require_values((*names, target))
    for name in names:
        _warn_about_categories(context, table, name)
    if target_kind == "class" or (target_kind == "auto" and _looks_like_classes(cells)):
        class_names = sorted_names(cells)
        targets = torch.tensor(class_indices(class_names, cells))
        warn_about_spellings(context.warn, target, cells, table.location)
        if len(class_names) < 2:
            raise DataError(f"{file}: expected two or more classes in {target!r}, got {cells[0]!r}")
        if standardise_target:
            raise OptionError(
                "standardise_target", f"expected numeric values in {target!r}, got classes"
            )
    else:
        targets = torch.tensor(table.numbers(target), dtype=torch.float64)[:, None]
        class_names = ()
    return table_data(
        context,
        table,
        names,
        targets,
        class_names=class_names,
        standardise_target=standardise_target,
        validation=validation,
        test=test,
    )


def _looks_like_classes(cells: list[str]) -> bool:
    different = set(cells)
    if find_non_number(different) is not None:
        return True
    return len(different) <= MAX_AUTO_CLASSES and all(
        float(cell).is_integer() for cell in different
    )


def _warn_about_categories(context: DataContext, table: Table, name: str) -> None:
    """Warn of the cell that makes a column with numbers categorical: it may be a typo."""
    cells = table.column(name)
    found = find_non_number(dict.fromkeys(cells))
    if found is None:
        return
    if any(parse_number(cell) is not None for cell in cells):
        cell, why = found
        context.warn(
            f"{table.location(cells.index(cell))}: {shorten(name)!r} is {shorten(cell)!r}, {why}: "
            "the whole column is treated as categorical"
        )
    warn_about_spellings(context.warn, name, cells, table.location)
