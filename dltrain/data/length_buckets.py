"""Sequences of different lengths, in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dltrain.core.batch import FULL_BATCH, Batch, RankSlice
from dltrain.core.data_spec import PADDING
from dltrain.data.in_memory import to_device
from dltrain.data.seeding import epoch_order

CHUNK_BATCHES = 50
"""Number of batches whose samples are sorted by length: more means less padding and shuffling."""


class LengthBuckets:
    """A split of sequences, each batch padded to its own longest; see `core.protocols.Split`.

    Args:
        sequences: Token ids of each sample, (tokens,) int64.
        targets: (samples,) int64, or (samples, tokens) int64, on the device.
        seed: Seed of each epoch's sample order.
        digests: Digest of each sample's text, to detect duplicates (default: that of the tokens,
            which is equal for different texts of unknown words).
        padding: Id of the token that pads a sequence.
    """

    def __init__(
        self,
        sequences: Sequence[Tensor],
        targets: Tensor,
        *,
        seed: int,
        digests: Sequence[bytes] | None = None,
        padding: int = PADDING,
    ) -> None:
        self.tokens = pad_sequence(list(sequences), batch_first=True, padding_value=padding)
        self.lengths: Tensor = torch.tensor([len(sequence) for sequence in sequences])
        self.targets = targets
        self.seed = seed
        self.digests = digests
        self.tokens: Tensor = self.tokens.to(targets.device)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.lengths)

    def batches(
        self,
        batch_size: int,
        *,
        epoch: int | None = None,
        offset: int = 0,
        rank_slice: RankSlice = FULL_BATCH,
    ) -> Iterator[Batch]:
        """See `Split.batches`; evaluation sorts samples by length."""
        for whole in self._batch_indices(batch_size, epoch)[offset:]:
            longest = max(self.lengths[whole].tolist())  # on the CPU: no device sync
            place = to_device(whole[rank_slice.bounds(len(whole))], self.targets.device)
            inputs = self.tokens[:, :longest].index_select(0, place)
            yield rank_slice.make_batch(
                inputs, self.targets.index_select(0, place), place, len(whole)
            )

    def _batch_indices(self, batch_size: int, epoch: int | None) -> list[Tensor]:
        """Return the sample indices of each batch, a pure function of the seed and the epoch."""
        if epoch is None:
            return list(self.lengths.argsort(stable=True).split(batch_size))
        order = epoch_order(len(self), self.seed, epoch)
        num_full = len(order) // batch_size
        plan = []
        for chunk in order[: num_full * batch_size].split(batch_size * CHUNK_BATCHES):
            by_length = self.lengths[chunk].argsort(stable=True)
            plan += chunk[by_length].split(batch_size)
        # Samples are sorted within a chunk; the batches are shuffled. The last, smaller one has
        # samples of any length, so that `drop_last` does not drop certain lengths.
        rest = order[num_full * batch_size :]
        mixed = [plan[i] for i in epoch_order(num_full, self.seed, epoch).tolist()]
        return [*mixed, rest] if len(rest) else mixed
