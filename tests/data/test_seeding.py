"""Random numbers that depend only on their key and index."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dltrain.data.seeding import GOLDEN, derive_seed, epoch_order, normal, uniform

MASK = (1 << 64) - 1


def splitmix64(seed: int, count: int) -> list[int]:
    """Return the first outputs of the sequential generator of the paper."""
    numbers = []
    for _ in range(count):
        seed = (seed + GOLDEN) & MASK
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        numbers.append(z ^ (z >> 31))
    return numbers


def test_reference_matches_published_numbers():
    # First outputs for seed 1234567, as published with many implementations.
    assert splitmix64(1234567, 3) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@given(seed=st.integers(0, MASK))
def test_uniform_equals_the_generator_at_any_index(seed):
    expected = [(z & 0xFFFFFF) / 2**24 for z in splitmix64(seed, 24)]
    drawn = uniform(seed, torch.arange(8), 3)
    assert drawn.flatten().tolist() == expected
    assert torch.equal(uniform(seed, torch.tensor([5, 2]), 3), drawn[[5, 2]])


def test_uniform_is_uniform():
    drawn = uniform(derive_seed(0), torch.arange(100_000), 2).double()
    fraction = torch.histc(drawn, bins=10, min=0, max=1) / drawn.numel()
    assert torch.allclose(fraction, torch.full((10,), 0.1, dtype=torch.float64), atol=0.005)
    assert abs(torch.corrcoef(drawn.T)[0, 1]) < 0.02


def test_key_depends_on_each_number_and_their_order():
    keys = {
        derive_seed(*numbers) for numbers in [(), (0,), (0, 0), (0, 1), (1, 0), (1, 1), (-1, 1)]
    }
    assert len(keys) == 7


def test_epoch_order_is_a_permutation_of_seed_and_epoch():
    order = epoch_order(100, 3, 5)
    assert torch.equal(order.sort().values, torch.arange(100))
    torch.manual_seed(9)  # the global generator has no effect
    assert torch.equal(epoch_order(100, 3, 5), order)
    assert not torch.equal(epoch_order(100, 3, 6), order)
    assert not torch.equal(epoch_order(100, 4, 5), order)


@pytest.mark.parametrize("numbers", [(0,), (2**63 + 5, 7, 2**64 - 1), (3, -1, 12345678901)])
def test_a_number_on_the_device_gives_the_same_key_and_random_numbers(numbers):
    index = torch.arange(50)
    expected = derive_seed(*numbers)
    for position, number in enumerate(numbers):
        signed = number - 2**64 if number >= 2**63 else number
        given = (*numbers[:position], torch.tensor(signed), *numbers[position + 1 :])
        found = derive_seed(*given)
        assert int(found) % 2**64 == expected
        assert torch.equal(uniform(found, index, 3), uniform(expected, index, 3))
        assert torch.equal(normal(found, index, 3), normal(expected, index, 3))
