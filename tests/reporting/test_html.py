"""Parts of a page."""

import re

import pytest

from dltrain.reporting.curves import charts, curves
from dltrain.reporting.formatting import format_bytes, format_number
from dltrain.reporting.html import tiles


@pytest.mark.parametrize("count", range(1, 13))
def test_no_tile_stands_alone_on_the_last_row(count):
    page = tiles({f"name {number}": "1" for number in range(count)})
    columns = [int(number) for number in re.findall(r"--(?:wide|medium):(\d+)", page)]
    assert len(columns) == 2
    for number, most in zip(columns, (6, 4), strict=True):
        assert 1 <= number <= most
        assert count <= number or count % number != 1


@pytest.mark.parametrize("count", [3, 4, 5, 6, 8, 9, 10])
def test_no_chart_stands_alone_on_the_last_row_of_a_wide_page(count):
    scalars = {f"val/{number}": [(1, 0.5), (2, 0.25)] for number in range(count)}
    (columns,) = map(int, re.findall(r"--wide:(\d+)", charts(curves(scalars))))
    assert columns in (2, 3)
    assert count % columns != 1


def test_scalars_that_were_recorded_once_are_a_table():
    scalars = {
        "train/loss": [(50, 1.0), (100, 0.5)],
        "val/loss": [(100, 0.25)],
        "val/accuracy": [(100, 0.875)],
        "val/auroc": [(100, None)],
    }
    page = charts(curves(scalars))
    assert page.count("<svg") == 1
    assert "<td>100</td><td>0.875</td>" in page
    assert "auroc" not in page


def test_numbers_are_written_without_an_exponent_where_they_can_be():
    assert format_number(396891.4) == "396,891"
    assert format_number(0.96096) == "0.96096"
    assert format_number(-12345.6, 4) == "-12,346"
    assert format_number(2.28e30, 3) == "2.28e+30"
    assert format_number(float("nan")) == "nan"
    assert [format_bytes(count) for count in (0, 1024, 3 * 2**20, 5 * 2**30)] == [
        "0 bytes",
        "1.0 KiB",
        "3.0 MiB",
        "5.0 GiB",
    ]
