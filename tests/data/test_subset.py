"""Samples from all over a split."""

import pytest
import torch

from dltrain.core.batch import FULL_BATCH, RankSlice
from dltrain.data.in_memory import InMemory
from dltrain.data.length_buckets import LengthBuckets
from dltrain.data.streaming import Streaming
from dltrain.data.subset import evenly_spaced_batches

CLASSES = torch.arange(10).repeat_interleave(100)
"""Of 1,000 samples, sorted."""


def value(number: int) -> torch.Tensor:
    return torch.tensor([float(number)])


def split_of(kind: str):
    if kind == "resident":
        return InMemory(torch.arange(1000.0)[:, None], CLASSES, seed=0)
    if kind == "bucketed":
        return LengthBuckets(
            [torch.ones(1 + n // 50, dtype=torch.int64) for n in range(1000)], CLASSES, seed=0
        )
    workers = {"streamed": 0, "streamed by workers": 2}[kind]
    return Streaming(
        value, CLASSES, names=range(1000), sample_bytes=8, seed=0, workers=workers, timeout=60
    )


@pytest.mark.parametrize("kind", ["resident", "bucketed", "streamed", "streamed by workers"])
def test_all_classes_of_a_sorted_split_are_there(kind):
    split = split_of(kind)
    batches = list(evenly_spaced_batches(split, 100, 64, FULL_BATCH))
    samples = torch.cat([batch.index for batch in batches])
    assert 100 <= len(samples) < 116
    assert samples.unique().equal(samples)  # each once, in order
    targets = torch.cat([batch.targets for batch in batches])
    assert targets.equal(CLASSES[samples])
    assert torch.bincount(targets, minlength=10).min() >= 6
    if kind != "bucketed":
        assert torch.cat([batch.inputs for batch in batches]).flatten().tolist() == samples.tolist()


@pytest.mark.parametrize("wanted", [1, 7, 16, 40, 300, 990, 999, 1000, 5000])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_as_many_as_wanted_in_batches_no_larger_than_allowed(wanted, batch_size):
    batches = list(evenly_spaced_batches(split_of("resident"), wanted, batch_size, FULL_BATCH))
    samples = torch.cat([batch.index for batch in batches])
    assert max(map(len, batches)) <= batch_size
    assert len(samples) >= min(wanted, 1000)
    assert samples.unique().equal(samples)


def test_processes_share_them():
    parts = [
        list(evenly_spaced_batches(split_of("resident"), 40, 64, RankSlice(rank, 3)))
        for rank in range(3)
    ]
    together = [
        number
        for shares in zip(*parts, strict=True)
        for batch in shares
        if batch.is_real
        for number in batch.index.tolist()
    ]
    alone = torch.cat(
        [batch.index for batch in evenly_spaced_batches(split_of("resident"), 40, 64, FULL_BATCH)]
    )
    assert together == alone.tolist()
