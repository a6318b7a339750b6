"""Random numbers as a pure function of what they are for, so that nothing has to be remembered.

The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014), whose n-th number is a hash of `seed + n * GOLDEN`: any of them can be
had at once, on any device, in any order.
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
    """A 64-bit seed that depends on every number and on their order.

    Args:
        *numbers: Integers, or int64 scalars on a device, which are not waited for.

    Returns:
        An unsigned integer; after a scalar, the same bits as a signed one on its device.
    """
    state: int | Tensor = 0
    for number in numbers:
        if isinstance(state, int) and isinstance(number, int):
            state = _hash_int(((state ^ (number & _MASK)) + GOLDEN) & _MASK)
        else:
            state = _hash((_signed(state) ^ _signed(number)) + _signed(GOLDEN))
    return state


def uniform(seed: int | Tensor, index: Tensor, num_draws: int) -> Tensor:
    """Numbers in [0, 1) that depend on the seed and on each index alone.

    Args:
        seed: From `key`.
        index: (samples,) int64.
        num_draws: Numbers for each sample.

    Returns:
        (samples, num_draws) float32, multiples of 2**-24, equal on every device.
    """
    draw = torch.arange(1, num_draws + 1, device=index.device)
    counter = index[:, None] * num_draws + draw
    return _hash(counter * _signed(GOLDEN) + _signed(seed)).bitwise_and_(0xFFFFFF).float() * 2**-24


def normal(seed: int | Tensor, index: Tensor, num_draws: int) -> Tensor:
    """Numbers of a normal distribution, mean 0 and variance 1, from `uniform` (Box and Muller).

    Args:
        seed: From `key`.
        index: (samples,) int64.
        num_draws: Numbers for each sample.

    Returns:
        (samples, num_draws) float32, at most 5.8 away from 0.
    """
    radius, angle = uniform(seed, index, 2 * num_draws).chunk(2, dim=1)
    return (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * torch.pi * angle)


def epoch_order(num_samples: int, seed: int, epoch: int) -> Tensor:
    """The order of the samples in a training epoch: a permutation, (samples,) int64, on the CPU."""
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
    return torch.randperm(num_samples, generator=generator)


def _hash_int(z: int) -> int:
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return z ^ (z >> 31)


def _hash(z: Any) -> Tensor:
    # int64 arithmetic wraps around, as the unsigned arithmetic of the paper does
    z = (z ^ _shift_right(z, 30)) * _signed(_FIRST)
    z = (z ^ _shift_right(z, 27)) * _signed(_SECOND)
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    # torch shifts the sign in; the mask takes it out
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int | Tensor) -> Any:
    """An unsigned 64-bit integer as a signed one; a scalar on a device is signed already."""
    if isinstance(number, Tensor):
        return number
    number &= _MASK
    return number - (1 << 64) if number >> 63 else number
