"""Results for other programs."""

import csv
import io

import pytest

from dltrain.commands.compare import Group, groups_to_csv
from dltrain.core.jsonable import to_csv


def read(text):
    return [*csv.reader(io.StringIO(text, newline=""))]


@pytest.mark.parametrize(
    "cell",
    [
        '=HYPERLINK("http://x","y")',
        "+cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        " =1",
        "-",
        "-1.5x",
        "-1_000",
        "-\u0661",
        "\uff1d1",
        "-inf",
    ],
)
def test_formulas_are_texts_in_csv(cell):
    assert read(to_csv([["a", cell]])) == [["a", f"'{cell}"]]


@pytest.mark.parametrize(
    "cell",
    [-1.5, 7, 1e-300, None, "-1.5", "+3", "-.5", "-1e-3", "", "a=b", "a-b", '"x', "00501", "é"],
)
def test_numbers_and_other_texts_are_as_they_were(cell):
    assert read(to_csv([["a", cell]])) == [["a", "" if cell is None else str(cell)]]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_no_cell_is_cut_where_a_spreadsheet_has_another_separator(delimiter):
    (row,) = csv.reader(io.StringIO(to_csv([[f"a{delimiter}=1+1", "b"]])), delimiter=delimiter)
    assert row[0].startswith(f"a{delimiter}=1+1")


def test_a_comparison_holds_no_formula():
    group = Group(["=runs"], [-1], ["done"], {"+key": "@value", "optimizer.lr": "-1.5"}, {})
    names, cells = read(groups_to_csv([group]))
    assert names == ["runs", "seeds", "states", "'+key", "optimizer.lr"]
    assert cells == ["'=runs", "-1", "done", "'@value", "-1.5"]
