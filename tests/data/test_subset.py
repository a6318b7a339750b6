"""Evenly spaced samples of a split."""

import pytest
import torch

from dltrain.core.batch import FULL_BATCH, RankSlice
from dltrain.data.in_memory import InMemory
from dltrain.data.length_buckets import LengthBuckets
from dltrain.data.streaming import Streaming
from dltrain.data.subset import evenly_spaced_batches

CLASSES = torch.arange(10).repeat_interleave(100)
"""Classes of 1,000 samples, sorted."""


def value(number: int) -> torch.Tensor:
    return torch.tensor([float(number)])


def split_of(kind: str):
    if kind == "in memory":
        return InMemory(torch.arange(1000.0)[:, None], CLASSES, seed=0)
    if kind == "length buckets":
        return LengthBuckets(
            [torch.ones(1 + n // 50, dtype=torch.int64) for n in range(1000)], CLASSES, seed=0
        )
    workers = {"streaming": 0, "streaming with workers": 2}[kind]
    return Streaming(
        value, CLASSES, names=range(1000), sample_bytes=8, seed=0, workers=workers, timeout=60
    )


@pytest.mark.parametrize(
    "kind", ["in memory", "length buckets", "streaming", "streaming with workers"]
)
def test_all_classes_of_a_sorted_split_occur(kind):
    split = split_of(kind)
    batches = list(evenly_spaced_batches(split, 100, 64, FULL_BATCH))
    samples = torch.cat([batch.index for batch in batches])
    assert 100 <= len(samples) < 116
    assert samples.unique().equal(samples)  # each once, in order
    targets = torch.cat([batch.targets for batch in batches])
    assert targets.equal(CLASSES[samples])
    assert torch.bincount(targets, minlength=10).min() >= 6
    if kind != "length buckets":
        assert torch.cat([batch.inputs for batch in batches]).flatten().tolist() == samples.tolist()


@pytest.mark.parametrize("requested", [1, 7, 16, 40, 300, 990, 999, 1000, 5000])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_requested_number_of_samples_in_batches_of_limited_size(requested, batch_size):
    batches = list(evenly_spaced_batches(split_of("in memory"), requested, batch_size, FULL_BATCH))
    samples = torch.cat([batch.index for batch in batches])
    assert max(map(len, batches)) <= batch_size
    assert len(samples) >= min(requested, 1000)
    assert samples.unique().equal(samples)


def test_ranks_share_the_samples():
    batches_per_rank = [
        list(evenly_spaced_batches(split_of("in memory"), 40, 64, RankSlice(rank, 3)))
        for rank in range(3)
    ]
    together = [
        number
        for shards in zip(*batches_per_rank, strict=True)
        for batch in shards
        if batch.is_real
        for number in batch.index.tolist()
    ]
    alone = torch.cat(
        [batch.index for batch in evenly_spaced_batches(split_of("in memory"), 40, 64, FULL_BATCH)]
    )
    assert together == alone.tolist()
