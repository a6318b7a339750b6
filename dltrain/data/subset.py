"""Evenly spaced samples of a split."""

from __future__ import annotations

from collections.abc import Iterator

from dltrain.core.batch import Batch, RankSlice
from dltrain.core.protocols import Split

_MAX_BATCH_SIZE = 16


def evenly_spaced_batches(
    split: Split, num_samples: int, batch_size: int, rank_slice: RankSlice
) -> Iterator[Batch]:
    """Yield small batches evenly spaced over a split, which is often sorted by class.

    Args:
        split: Split to read, without augmentation.
        num_samples: Approximate number of samples; at most the whole split.
        batch_size: Maximum batch size.
        rank_slice: See `Split.batches`.
    """
    if num_samples >= len(split):
        yield from split.batches(batch_size, rank_slice=rank_slice)
        return
    size = max(1, min(_MAX_BATCH_SIZE, batch_size, num_samples // _MAX_BATCH_SIZE))
    available, selected = -(-len(split) // size), -(-num_samples // size)
    for number in range(selected):
        offset = number * available // selected
        yield next(split.batches(size, offset=offset, rank_slice=rank_slice))
