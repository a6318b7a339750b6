"""Shards of a batch on each rank, and options that several processes refuse."""

from dataclasses import replace
from pathlib import Path

import experiments
import pytest
import torch

from dltrain.build import build_data, build_runtime, build_task
from dltrain.config import ConfigError
from dltrain.core.batch import Batch, RankSlice
from dltrain.core.protocols import ProcessGroup

COUNTS = [(samples, size) for samples in (1, 2, 3, 7, 8, 33) for size in (1, 2, 3, 8)]


class Pair(ProcessGroup):
    """Process group of rank 0 of two."""

    rank_slice = RankSlice(0, 2)


def shards(samples: int, size: int) -> list[Batch]:
    """Return the shards of a batch with numbered samples."""
    index = torch.arange(samples)
    slices = [RankSlice(rank, size) for rank in range(size)]
    own = [index[rank_slice.bounds(samples)] for rank_slice in slices]
    return [s.make_batch(i[:, None], i, i, samples) for s, i in zip(slices, own, strict=True)]


@pytest.mark.parametrize(("samples", "size"), COUNTS)
def test_real_shards_form_the_batch_and_have_even_sizes(samples, size):
    found = shards(samples, size)
    real = [shard.index for shard in found if shard.is_real]
    assert torch.cat(real).tolist() == list(range(samples))
    lengths = [len(shard) if shard.is_real else 0 for shard in found]
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) == RankSlice(0, size).max_size(samples)
    assert all(len(shard) == 1 for shard in found if not shard.is_real)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (["train.micro_batch=auto"], "train.micro_batch"),
        (["train.distributed=fsdp", "optimizer={name: muon}"], "optimizer"),
        (["train.distributed=fsdp", "phases={main: {optimizer: muon}}"], "phases.main.optimizer"),
        (["train.distributed=fsdp", "recording.histograms=true"], "recording.histograms"),
        (["train.distributed=fsdp", "task=gan"], "task"),
    ],
)
def test_options_for_one_process_only_are_refused_at_their_line(experiment, changes, line):
    chosen = experiment({**experiments.COMMON, **experiments.CLASSIFIER}, *changes)
    build_runtime(chosen)  # accepted for one process
    with pytest.raises(ConfigError) as refused:
        build_runtime(chosen, Pair())
    assert [problem.path for problem in refused.value.problems] == [line]


def test_fsdp_is_refused_for_a_task_that_calls_parts_of_a_module(experiment):
    experiments.write(Path.cwd())
    chosen = experiment({**experiments.COMMON, **experiments.TWO["codes"]})
    chosen = replace(chosen, train=replace(chosen.train, distributed="fsdp"))
    runtime = build_runtime(chosen, Pair())
    data = build_data(chosen, runtime, print)
    with pytest.raises(ConfigError, match="calls parts of it instead; use ddp") as refused:
        build_task(chosen, data.spec, runtime)
    assert [problem.path for problem in refused.value.problems] == ["train.distributed"]
