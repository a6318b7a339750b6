"""Holdout of samples from training: exact in size, stratified, and a function of the seed."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from dltrain.core.errors import OptionError
from dltrain.core.option_types import NonNegativeInt, Probability
from dltrain.data.seeding import derive_seed

HoldoutSize = NonNegativeInt | Probability
"""Size of a holdout split: a number of samples, or a fraction below 1; 0 for none."""

TEST_SEED = 0
"""Seed of test splits, which do not depend on the run's seed, so that runs are comparable."""


def hold_out(targets: Tensor, amount: float, seed: int, *, name: str) -> tuple[Tensor, Tensor]:
    """Split samples into those to keep and those to hold out.

    Classes keep their proportions, rounded by largest remainder so that the total is exact.

    Args:
        targets: (samples,) int64 classes, or (samples, values) float, which are not stratified.
        amount: See `HoldoutSize`.
        seed: Seed of the selection.
        name: Option that gave the amount, for error messages.

    Returns:
        Two index tensors, int64, sorted.

    Raises:
        OptionError: Nothing would be held out or kept, or a class would have no sample left.

    >>> hold_out(torch.tensor([0, 0, 0, 1, 1, 1]), 2, seed=0, name="test")[1].shape
    torch.Size([2])
    """
    total = len(targets)
    if amount == 0:
        return torch.arange(total), torch.arange(0)
    count = amount if isinstance(amount, int) else round(amount * total)
    if not 0 < count < total:
        raise OptionError(
            name,
            f"{amount} of {total} samples is {count}; "
            f"give a number from 1 to {total - 1}, a fraction in between, or 0 for none",
        )
    order = torch.randperm(total, generator=torch.Generator().manual_seed(derive_seed(seed)))
    if targets.is_floating_point():
        return order[count:].sort().values, order[:count].sort().values

    sizes = torch.bincount(targets)
    quota = largest_remainder(sizes, count)
    emptied = ((quota == sizes) & (sizes > 0)).nonzero().flatten().tolist()
    if emptied:
        raise OptionError(
            name,
            f"{amount} of {total} samples would leave class {emptied[0]}, "
            f"which has {int(sizes[emptied[0]])}, without a training sample; hold out fewer",
        )
    # Group the shuffled samples by class; the first `quota` of each group are held out.
    shuffled = targets[order]
    grouped = shuffled.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[grouped] = torch.arange(total) - (sizes.cumsum(0) - sizes)[shuffled[grouped]]
    held = rank < quota[shuffled]
    return order[~held].sort().values, order[held].sort().values


def largest_remainder(sizes: Tensor, count: int) -> Tensor:
    """Return integers in proportion to `sizes`, (classes,) int64, that sum to `count`.

    Hamilton's largest remainder method; equal remainders go to the earlier class.

    >>> largest_remainder(torch.tensor([50, 30, 20]), 7).tolist()
    [4, 2, 1]
    """
    exact = sizes * count  # in units of 1 / total, so that no rounding enters
    total = int(sizes.sum())
    quota = exact // total
    remainder = exact - quota * total
    extra = remainder.argsort(descending=True, stable=True)[: count - int(quota.sum())]
    quota[extra] += 1
    return quota


def split_fingerprint(**splits: Tensor) -> str:
    """Return the SHA-256, in hexadecimal, of the sample indices of each split.

    Args:
        **splits: The indices of each split, (samples,) int64.
    """
    digest = hashlib.sha256()
    for name, index in splits.items():
        digest.update(f"{name} {len(index)}\n".encode())
        digest.update(index.numpy().data)
    return digest.hexdigest()
