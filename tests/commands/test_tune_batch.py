"""The largest batch that fits: against memories whose size is known."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dltrain
from dltrain.commands import batch_trial
from dltrain.commands import tune_batch as command
from dltrain.commands.tune_batch import Trial, search
from dltrain.training.device import is_out_of_memory

PLUGIN = '''
import torch
from torch import nn
from dltrain import MODELS, DataSpec

@MODELS.register
def hungry(spec: DataSpec, /, *, mib: int = 0, most: int = 10**9) -> nn.Module:
    """Takes memory for each sample.

    Args:
        mib: So much.
        most: There is memory for so many samples.
    """
    class Hungry(nn.Linear):
        def forward(self, inputs):
            if self.training and len(inputs) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            if self.training:
                torch.ones(mib * len(inputs), 2**18)
            return super().forward(inputs)
    return Hungry(spec.input_shape[0], spec.num_outputs)
'''
CONFIG = {
    "name": "t",
    "model": "hungry",
    "data": {"name": "toy_blobs", "samples": 200, "validation": 0.1, "test": 0},
    "loss": "cross_entropy",
    "optimizer": {"name": "sgd", "lr": 0.1},
    "schedule": "cosine",
    "train": {"epochs": 1, "batch_size": 64, "device": "cpu"},
    "checkpoint": {"best": "val/loss"},
}
SAMPLES = 180


@pytest.fixture
def hungry(experiment, tmp_path, monkeypatch):
    """Makes experiments whose model takes memory."""
    (tmp_path / "hungry.py").write_text(PLUGIN)
    experiment({**CONFIG, "model": "linear"})  # registers the built-ins
    monkeypatch.setattr(dltrain.MODELS, "_components", dict(dltrain.MODELS))
    from dltrain.cli.options import load_plugins

    load_plugins([tmp_path / "hungry.py"])
    return lambda *overrides: experiment(CONFIG, *overrides)


@pytest.fixture
def pretended_gpu(monkeypatch):
    """Trials in this process, as on a GPU, whose allocator has given out 1000 bytes."""
    for name, value in {
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "max_memory_reserved": 1000,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(
        command,
        "trials_in_processes",
        lambda experiment, _: command.trials_on_gpu(experiment, a_cpu()),
    )


def a_cpu():
    from dltrain.training.device import resolve_precision
    from dltrain.training.runtime import Runtime

    device = torch.device("cpu")
    return Runtime(device, resolve_precision("fp32", device))


@pytest.mark.parametrize("start", [1, 32, 100, 4096])
@pytest.mark.parametrize("room", [0, 1, 2, 3, 31, 100, 1000, 5000, 100_000])
def test_the_search_finds_what_fits_and_tries_little_beyond(start, room):
    tried = []

    def attempt(size: int) -> Trial:
        size = min(size, 9000)
        tried.append(size)
        return Trial(size, size <= room)

    trials = search(attempt, start, lambda: 9000)
    assert sorted(tried) == [trial.size for trial in trials]  # none twice
    fitting = [trial.size for trial in trials if trial.fits]
    if room == 0:
        assert fitting == []
    else:
        best = min(room, 9000)
        assert best * 15 // 16 <= fitting[-1] <= best
    assert len(tried) <= 22
    assert max(tried) <= max(start, 2 * room)


def test_a_full_memory_is_found_and_the_next_trial_has_its_room_again(hungry, pretended_gpu):
    heard = []
    found = dltrain.tune_batch(hungry("model.most=100"), on_trial=heard.append)
    assert [(trial.size, trial.fits) for trial in found.trials] == [
        *((64, True), (96, True), (100, True)),
        *((104, False), (112, False), (128, False)),
    ]
    assert [trial.size for trial in heard] == [64, 128, 96, 112, 104, 100]
    assert (found.setting, found.suggestion, found.configured) == ("train.batch_size", 100, 64)
    assert found.samples == SAMPLES
    assert all((trial.samples_per_second or 0) > 0 for trial in found.trials if trial.fits)


def test_no_batch_is_larger_than_the_training_split(hungry, pretended_gpu):
    found = dltrain.tune_batch(hungry())
    assert (found.suggestion, found.trials[-1].fits) == (SAMPLES, True)
    assert [trial.size for trial in found.trials] == [64, 128, SAMPLES]
    assert dltrain.tune_batch(hungry("train.batch_size=500")).suggestion == SAMPLES


def test_micro_batches_are_slices_of_the_configured_batch(hungry, pretended_gpu):
    found = dltrain.tune_batch(hungry("model.most=20"), micro_batch=True)
    assert (found.setting, found.suggestion) == ("train.micro_batch", 20)
    assert found.limited_by == "memory"
    found = dltrain.tune_batch(hungry(), micro_batch=True)
    assert [trial.size for trial in found.trials] == [64]
    assert found.limited_by == "batch_size"


def test_the_data_may_be_the_limit_instead_of_the_memory(hungry, pretended_gpu, call):
    assert dltrain.tune_batch(hungry("model.most=20")).limited_by == "memory"
    found = dltrain.tune_batch(hungry())
    assert (found.suggestion, found.limited_by) == (SAMPLES, "samples")
    words = ("tune-batch", "config.yaml", "--plugin", "hungry.py")
    shown = call(*words).out
    assert f"{SAMPLES} is the size of the training split and fits into" in shown
    assert "memory is not the limit" in shown
    assert "is the largest" not in shown
    shown = call(*words, "model.most=20").out
    assert "20 is the largest size that fits into" in shown
    assert "is the limit" not in shown
    assert json.loads(call(*words, "--json").out)["limited_by"] == "samples"


def test_a_graph_is_never_recorded_and_the_experiment_stays_as_it_is(
    hungry, pretended_gpu, monkeypatch
):
    chosen = hungry("train.micro_batch=auto")
    chosen = replace(chosen, train=replace(chosen.train, cuda_graph="auto"))
    seen = []
    build = batch_trial.build_trainer

    def note(experiment, *others):
        seen.append((experiment.train.cuda_graph, experiment.train.micro_batch))
        return build(experiment, *others)

    monkeypatch.setattr(batch_trial, "build_trainer", note)
    dltrain.tune_batch(chosen)
    assert set(seen) == {("off", None)}
    assert chosen.train.micro_batch == "auto"


def test_a_budget_for_a_gpu(hungry, pretended_gpu):
    assert dltrain.tune_batch(hungry(), memory_bytes=1100).suggestion == SAMPLES
    with pytest.raises(dltrain.core.errors.RunError, match="not even one sample"):
        dltrain.tune_batch(hungry(), memory_bytes=1050)


def test_another_error_of_a_step_is_told(hungry, pretended_gpu, monkeypatch):
    error = RuntimeError("shapes differ")
    assert not is_out_of_memory(error)

    def steps(*_):
        raise error

    monkeypatch.setattr(batch_trial, "_steps", steps)
    with pytest.raises(dltrain.core.errors.RunError, match=r"a step fails: .*: shapes differ"):
        dltrain.tune_batch(hungry())


def test_a_processes_memory_stays_within_the_budget(hungry, call, monkeypatch):
    monkeypatch.setattr(command, "PRECISION", 1)
    hungry()
    words = ("tune-batch", "config.yaml", "--plugin", "hungry.py", "--steps", 1)
    base = json.loads(call(*words, "--micro-batch", "--json").out)["trials"][0]["memory_bytes"]
    # A step's 12 MiB per sample are freed and taken again, and the heap may have to grow for it: n
    # samples take from 12 to 24 n MiB. So 64 never fit, 16 always do, and 32 mostly.
    budget = int((base + 576 * 2**20) / (1 - command.RESERVE))
    ended = call(*words, "model.mib=12", "--memory", budget)
    assert ended.code == 0, ended.err
    assert "tried 64: does not fit" in ended.err
    lines = ended.out.splitlines()
    assert lines[0].split() == ["batch_size", "memory", "samples/s"]
    fits, too_many = (int(line.split()[0]) for line in lines[1:3])
    assert fits in (16, 32)
    assert too_many == 2 * fits
    assert lines[2].split()[1:4] == ["does", "not", "fit"]
    taken = int(lines[1].split()[1].replace(",", "")) * 2**20
    assert base < taken <= base + 576 * 2**20
    assert f"in the config:  train: {{batch_size: {fits}}}" in lines
    assert f"train: {{micro_batch: {fits}}}" in lines[-1]
    assert f"dltrain tune-lr config.yaml train.batch_size={fits}" in ended.out
    assert not Path("runs").exists()


def test_too_small_a_budget_and_a_wrong_config_are_told_in_a_line(hungry, call):
    hungry()
    words = ("tune-batch", "config.yaml", "--plugin", "hungry.py")
    ended = call(*words, "--memory", "50MiB")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "the data alone does not fit into the memory, 47 MiB\n"
    ended = call(*words, "data.samples=2", "data.classes=3")
    assert (ended.code, ended.out) == (2, "")
    assert (
        "data.classes=3: data.classes: expected at most 2, the number of samples, got 3"
        in ended.err
    )


@pytest.mark.parametrize("words", ["", "4 apples", "GiB", "-1GiB", "0", "1e9"])
def test_what_is_no_amount_of_memory_is_refused(call, words):
    ended = call("tune-batch", "config.yaml", "--memory", words)
    assert ended.code == 2
    assert "expected a memory size such as" in ended.err


def test_amounts_of_memory():
    from dltrain.cli.tuning import _bytes

    amounts = {"4GiB": 4 * 2**30, "512 MiB": 2**29, "8GB": 8 * 10**9, "1.5KiB": 1536, "77": 77}
    assert {words: _bytes(words) for words in amounts} == amounts
