"""First trials of every row; `scripts/torture.py` runs all of them."""

import importlib
from pathlib import Path

import pytest

ROWS = [
    row
    for path in sorted(Path(__file__).parent.glob("*_faults.py"))
    for row in importlib.import_module(path.stem).ROWS
]
TRIALS = [
    pytest.param(row, number, id=f"{row.name}-{number}") for row in ROWS for number in range(row.pr)
]


@pytest.mark.parametrize(("row", "number"), TRIALS)
def test_the_promise_holds(row, number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row.trial(number, tmp_path)


def test_rows_have_unique_names():
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert all(row.pr <= row.release for row in ROWS)
