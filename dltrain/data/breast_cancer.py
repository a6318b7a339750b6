"""The breast cancer table included in scikit-learn."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import torch

from dltrain.core.errors import DataError
from dltrain.core.protocols import Data, DataContext
from dltrain.core.registry import DATA
from dltrain.data.columns import table_data
from dltrain.data.splits import HoldoutSize
from dltrain.data.table import Table


@DATA.register
def breast_cancer(
    context: DataContext,
    /,
    *,
    validation: HoldoutSize = 0,
    test: HoldoutSize = 0.2,
) -> Data:
    """Wisconsin diagnostic breast cancer: 569 rows of 30 numbers, malignant (0) or benign (1).

    The table included in scikit-learn; Street, Wolberg and Mangasarian, 1993.

    >>> from dltrain.core.protocols import DataContext
    >>> data = breast_cancer(DataContext(Path("data")))
    >>> data.spec.input_shape, data.spec.class_names, len(data.train), len(data.test)
    ((30,), ('malignant', 'benign'), 455, 114)

    Args:
        validation: Validation rows, taken from the training set: a number, or a fraction.
        test: Test rows: a number, or a fraction.
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
    return table_data(
        context,
        table,
        names,
        torch.tensor([int(label) for label in labels]),
        class_names=tuple(class_names),
        standardise_target=False,
        validation=validation,
        test=test,
    )
