"""Counter-based random numbers: a pure function of seed and index, without a state to save.

The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014), whose n-th number is a hash of `seed + n * GOLDEN`: all of them can be
computed in parallel, on any device, in any order.
"""

from __future__ import annotations

from typing import Any, overload

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1


@overload
def derive_seed(*numbers: int) -> int: ...
@overload
def derive_seed(*numbers: int | Tensor) -> int | Tensor: ...
def derive_seed(*numbers: int | Tensor) -> int | Tensor:
    """Derive a 64-bit seed from numbers; it depends on each number and on their order.

    Args:
        *numbers: Integers, or int64 scalars on a device, without synchronization.

    Returns:
        An unsigned integer; from a scalar tensor, the same bits as int64 on its device.

    >>> derive_seed(0, 1) == derive_seed(1, 0)
    False
    """
    state: int | Tensor = 0
    for number in numbers:
        if isinstance(state, int) and isinstance(number, int):
            state = _hash_int(((state ^ (number & _MASK)) + GOLDEN) & _MASK)
        else:
            state = _hash((_signed(state) ^ _signed(number)) + _signed(GOLDEN))
    return state


def uniform(seed: int | Tensor, index: Tensor, num_draws: int) -> Tensor:
    """Return uniform numbers in [0, 1) that depend only on the seed and on each index.

    Args:
        seed: Result of `derive_seed`.
        index: (samples,) int64.
        num_draws: Number of values per sample.

    Returns:
        (samples, num_draws) float32, multiples of 2**-24, equal on every device.

    >>> values = uniform(derive_seed(0), torch.arange(4), 2)
    >>> torch.equal(uniform(derive_seed(0), torch.tensor([2]), 2)[0], values[2])
    True
    """
    draw = torch.arange(1, num_draws + 1, device=index.device)
    counter = index[:, None] * num_draws + draw
    return _hash(counter * _signed(GOLDEN) + _signed(seed)).bitwise_and_(0xFFFFFF).float() * 2**-24


def normal(seed: int | Tensor, index: Tensor, num_draws: int) -> Tensor:
    """Return standard normal numbers, from `uniform` by the Box-Muller transform.

    Args:
        seed: Result of `derive_seed`.
        index: (samples,) int64.
        num_draws: Number of values per sample.

    Returns:
        (samples, num_draws) float32, with magnitudes up to 5.8.
    """
    radius, angle = uniform(seed, index, 2 * num_draws).chunk(2, dim=1)
    return (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * torch.pi * angle)


def epoch_order(num_samples: int, seed: int, epoch: int) -> Tensor:
    """Return the sample order of a training epoch: a permutation, (samples,) int64, on the CPU."""
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
    return torch.randperm(num_samples, generator=generator)


def _hash_int(z: int) -> int:
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return z ^ (z >> 31)


def _hash(z: Any) -> Tensor:
    # int64 arithmetic wraps around like the unsigned arithmetic of the paper.
    z = (z ^ _shift_right(z, 30)) * _signed(_FIRST)
    z = (z ^ _shift_right(z, 27)) * _signed(_SECOND)
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    # torch's shift is arithmetic; the mask removes the sign bits.
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int | Tensor) -> Any:
    """Reinterpret an unsigned 64-bit integer as signed; a scalar tensor is signed already."""
    if isinstance(number, Tensor):
        return number
    number &= _MASK
    return number - (1 << 64) if number >> 63 else number
