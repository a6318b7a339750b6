"""Which part of a batch is whose, and what several processes refuse."""

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
    """What a process of two knows of itself."""

    rank_slice = RankSlice(0, 2)


def parts(samples: int, size: int) -> list[Batch]:
    """The shares of a batch whose samples are numbered."""
    index = torch.arange(samples)
    shares = [RankSlice(rank, size) for rank in range(size)]
    own = [index[share.bounds(samples)] for share in shares]
    return [s.make_batch(i[:, None], i, i, samples) for s, i in zip(shares, own, strict=True)]


@pytest.mark.parametrize(("samples", "size"), COUNTS)
def test_the_parts_that_count_are_the_batch_and_evenly_cut(samples, size):
    found = parts(samples, size)
    counted = [part.index for part in found if part.is_real]
    assert torch.cat(counted).tolist() == list(range(samples))
    lengths = [len(part) if part.is_real else 0 for part in found]
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) == RankSlice(0, size).max_size(samples)
    assert all(len(part) == 1 for part in found if not part.is_real)


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
def test_what_several_processes_cannot_do_is_refused_at_its_line(experiment, changes, line):
    chosen = experiment({**experiments.COMMON, **experiments.CLASSIFIER}, *changes)
    build_runtime(chosen)  # one process can
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
