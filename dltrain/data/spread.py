"""Samples from all over a split."""

from __future__ import annotations

from collections.abc import Iterator

from dltrain.spec import Batch, Share, Split

_MOST_AT_ONCE = 16


def spread(split: Split, num_samples: int, share: Share) -> Iterator[Batch]:
    """Small batches from all over a split, which is often in the order of its classes.

    Args:
        split: Read in its own order, without augmentation.
        num_samples: In all; the last batches may have a few more.
        share: See `Split.batches`.
    """
    size = max(1, min(_MOST_AT_ONCE, num_samples // _MOST_AT_ONCE))
    there, wanted = -(-len(split) // size), -(-num_samples // size)
    for number in range(min(there, wanted)):
        offset = number * there // min(there, wanted)
        yield next(split.batches(size, offset=offset, share=share))
