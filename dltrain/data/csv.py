"""Your own table, from a CSV file."""

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
"""Whole numbers of more values than this are no classes, unless `target_kind` says so."""


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
    """Your own table: a CSV file with a header, each row a sample.

    Columns of numbers are standardised by the training rows; columns with any cell that is no
    number are categories, each of which becomes a feature of 0 or 1. So are columns with leading
    zeros, such as postal codes, and with whole numbers too large to be told apart. Categories and
    classes keep their spelling: 1 and 1.0 are two. An empty cell of a column that is used is
    refused.

    Args:
        path: The file, from the working directory or else from the common data folder.
        target: The column to predict.
        features: The columns to predict from; all others if not given.
        target_kind: Whether the target is a class or a value; auto takes it for a class where it
            would be categories as a feature, or has whole numbers of at most 20 values.
        standardise_target: Train on values with mean 0 and standard deviation 1; predictions are
            converted back.
        delimiter: The character between cells; if not given, a tab in .tsv and a comma otherwise.
        quote: The character that encloses cells with delimiters or line ends in them; auto takes a
            double quote, or none where cells are separated by tabs; null takes none.
        validation: Training rows to validate on: a number, or a fraction.
        test: Rows to test on: a number, or a fraction.
    """
    file = resolve_path(path, context.root)
    table = read_table(file, delimiter, quote)
    if features is None:
        table.require_names()
    cells = table.column(target)
    names = features if features is not None else tuple(n for n in table.columns if n != target)
    if not names or target in names or len(set(names)) != len(names):
        raise OptionError("features", f"{', '.join(names) or 'none'}; give columns but {target!r}")
    table.require_values((*names, target))
    for name in names:
        _warn_about_categories(context, table, name)
    if target_kind == "class" or (target_kind == "auto" and _looks_like_classes(cells)):
        class_names = sorted_names(cells)
        targets = torch.tensor(class_indices(class_names, cells))
        warn_about_spellings(context.warn, target, cells, table.location)
        if len(class_names) < 2:
            raise DataError(f"{file}: {target!r} is {cells[0]!r} in every row")
        if standardise_target:
            raise OptionError("standardise_target", f"{target!r} has classes, not values")
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
    """Says which cell makes a column that has numbers one of categories: it may be a slip."""
    cells = table.column(name)
    found = find_non_number(dict.fromkeys(cells))
    if found is None:
        return
    if any(parse_number(cell) is not None for cell in cells):
        cell, why = found
        context.warn(
            f"{table.location(cells.index(cell))}: {shorten(name)!r} is {shorten(cell)!r}, {why}: "
            "the whole column is taken for categories"
        )
    warn_about_spellings(context.warn, name, cells, table.location)
