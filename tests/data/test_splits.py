"""Splits: exact sizes, stratified and reproducible."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dltrain.core.errors import OptionError
from dltrain.data.splits import hold_out, largest_remainder


@given(st.lists(st.integers(0, 50), min_size=1).filter(any), st.data())
def test_largest_remainder_sums_up_and_stays_close(sizes, data):
    count = data.draw(st.integers(0, sum(sizes)))
    counts = largest_remainder(torch.tensor(sizes), count).tolist()
    assert sum(counts) == count
    for number, size in zip(counts, sizes, strict=True):
        assert abs(number - count * size / sum(sizes)) < 1
        assert number <= size


def test_largest_remainder_of_an_example():
    # Quotas 4.7, 3.3 and 2.0: the remaining sample goes to the largest remainder.
    assert largest_remainder(torch.tensor([47, 33, 20]), 10).tolist() == [5, 3, 2]


@pytest.mark.parametrize("amount", [30, 0.2])
def test_classes_keep_their_proportions(amount):
    targets = torch.tensor([0] * 75 + [1] * 50 + [2] * 25)[torch.randperm(150)]
    kept, held = hold_out(targets, amount, 0, name="validation")
    assert torch.bincount(targets[held]).tolist() == [15, 10, 5]
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(150))
    assert torch.equal(kept, kept.sort().values)
    assert torch.equal(held, held.sort().values)


def test_the_seed_determines_the_samples():
    targets = torch.arange(200) % 4
    _, held = hold_out(targets, 40, 0, name="validation")
    assert torch.equal(hold_out(targets, 40, 0, name="validation")[1], held)
    assert not torch.equal(hold_out(targets, 40, 1, name="validation")[1], held)


def test_regression_samples_are_held_out_at_random():
    kept, held = hold_out(torch.randn(100, 1), 0.25, 0, name="test")
    assert (len(kept), len(held)) == (75, 25)
    assert not torch.equal(held, torch.arange(75, 100))


def test_nothing_is_held_out_by_default():
    kept, held = hold_out(torch.zeros(5, dtype=torch.int64), 0, 0, name="validation")
    assert torch.equal(kept, torch.arange(5))
    assert len(held) == 0


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (10, "10 of 10 samples is 10"),
        (0.01, "0.01 of 10 samples is 0"),
        (9, "leave class 0, which has 5, without"),
    ],
)
def test_splits_without_samples_are_refused(amount, words):
    targets = torch.tensor([0] * 5 + [1] * 5)
    with pytest.raises(OptionError, match=words) as error:
        hold_out(targets, amount, 0, name="validation")
    assert error.value.option == "validation"
