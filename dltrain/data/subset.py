"""Samples from all over a split."""

from __future__ import annotations

from collections.abc import Iterator

from dltrain.core.batch import Batch, RankSlice
from dltrain.core.protocols import Split

_MAX_BATCH_SIZE = 16


def evenly_spaced_batches(
    split: Split, num_samples: int, batch_size: int, rank_slice: RankSlice
) -> Iterator[Batch]:
    """Small batches from all over a split, which is often in the order of its classes.

    Args:
        split: Read in its own order, without augmentation.
        num_samples: In all; the last batches may have a few more. All, if the split has no more.
        batch_size: At most.
        share: See `Split.batches`.
    """
    if num_samples >= len(split):
        yield from split.batches(batch_size, rank_slice=rank_slice)
        return
    size = max(1, min(_MAX_BATCH_SIZE, batch_size, num_samples // _MAX_BATCH_SIZE))
    there, wanted = -(-len(split) // size), -(-num_samples // size)
    for number in range(wanted):
        yield next(split.batches(size, offset=number * there // wanted, rank_slice=rank_slice))
