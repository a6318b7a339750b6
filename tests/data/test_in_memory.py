"""In-memory splits: content of batches, which depends only on seed, epoch and offset."""

import pytest
import torch

from dltrain.data.in_memory import InMemory, fingerprint


@pytest.fixture
def split():
    return InMemory(torch.arange(50.0)[:, None], torch.arange(50) % 3, seed=7)


def test_samples_keep_their_targets(split):
    for batch in split.batches(16, epoch=2):
        assert torch.equal(batch.inputs[:, 0], batch.index.float())
        assert torch.equal(batch.targets, batch.index % 3)


def test_an_epoch_has_each_sample_once_and_a_smaller_last_batch(split):
    batches = list(split.batches(16, epoch=0))
    assert [len(batch) for batch in batches] == [16, 16, 16, 2]
    assert torch.cat([batch.index for batch in batches]).sort().values.tolist() == list(range(50))


def test_evaluation_keeps_the_order(split):
    assert torch.cat([b.index for b in split.batches(16)]).tolist() == list(range(50))
    assert torch.equal(torch.cat([b.inputs for b in split.batches(16)]), split.samples)


@pytest.mark.parametrize("epoch", [None, 3])
@pytest.mark.parametrize("offset", [1, 3, 4, 9])
def test_an_offset_skips_batches(split, epoch, offset):
    rest = [b.index.tolist() for b in split.batches(16, epoch=epoch)][offset:]
    assert [b.index.tolist() for b in split.batches(16, epoch=epoch, offset=offset)] == rest


def test_order_depends_only_on_seed_and_epoch(split):
    def order(other, **position):
        return torch.cat([batch.index for batch in other.batches(**position)]).tolist()

    first = order(split, batch_size=16, epoch=0)
    assert order(split, batch_size=7, epoch=0) == first
    assert order(split, batch_size=16, epoch=1) != first
    other = InMemory(split.samples, split.targets, seed=8)
    assert order(other, batch_size=16, epoch=0) != first


def test_the_global_generator_is_unchanged(split):
    before = torch.get_rng_state()
    list(split.batches(16, epoch=0))
    assert torch.equal(torch.get_rng_state(), before)


def test_fingerprints_distinguish_values_shapes_and_dtypes():
    tensor = torch.arange(6)
    different = (tensor, tensor.view(2, 3), tensor.int(), tensor + 1)
    assert len({fingerprint(t) for t in different}) == 4
    assert fingerprint(tensor) == fingerprint(torch.arange(12)[::2] // 2)
