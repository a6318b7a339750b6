"""The last, smaller batch of an epoch: left out where wanted, refused where it can't work."""

import json

import pytest
import torch
import yaml
from trainers import assert_equal_outcomes, interrupt_and_resume, trainer_for, weights

import dltrain
from dltrain.config import ConfigError
from dltrain.data.length_buckets import LengthBuckets
from dltrain.training.runtime import Runtime
from dltrain.training.single_sample import single_sample_error

CONFIG = {
    "seed": 3,
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "toy_spirals", "samples": 82, "validation": 0, "test": 0},
    "loss": "cross_entropy",
    "optimizer": {"name": "adamw", "lr": 0.01},
    "schedule": {"name": "one_cycle", "warmup": 0.2},
    "train": {"epochs": 3, "batch_size": 9, "device": "cpu"},
    "recording": {"log_every": 1, "tensorboard": False},
}
NORMALISED = CONFIG | {"model": {"name": "mlp", "hidden": [8], "batch_norm": True}}


def error_of(trainer) -> str | None:
    runtime = Runtime(trainer.device, trainer.precision, trainer.process_group)
    return single_sample_error(trainer.settings, trainer.data, trainer.task, runtime)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_drop_last_leaves_out_the_smaller_batch_alone(
    experiment, tmp_path, monkeypatch, cuda_graph
):
    options = ["train.drop_last=true"]
    if cuda_graph:
        from replays import emulate_cuda_graphs

        emulate_cuda_graphs(monkeypatch)
        options += ["train.cuda_graph=on"]
    trainer = trainer_for(experiment(CONFIG, *options), tmp_path)
    seen, compute = [], trainer.optimizer_step.compute

    def see(state, batch, step_scalars):
        seen.append(batch.index.tolist())
        return compute(state, batch, step_scalars)

    if not cuda_graph:
        trainer.optimizer_step.compute = see
    trainer.fit()
    assert (trainer.steps_per_epoch, trainer.total_steps, trainer.state.step) == (9, 27, 27)
    assert trainer.throughput.samples_per_epoch == 81
    rate = trainer.task.phases[0].optimizers[0].param_groups[0]
    assert rate["lr"] == rate["initial_lr"] * trainer.task.phases[0].schedule(26 / 27)
    if not cuda_graph:
        orders = [trainer.data.train.epoch_order(epoch)[:81].tolist() for epoch in range(3)]
        assert [seen[n : n + 9] for n in (0, 9, 18)] == [
            [order[n : n + 9] for n in range(0, 81, 9)] for order in orders
        ]


def test_without_a_smaller_batch_it_changes_nothing(experiment, tmp_path):
    outcomes = []
    for dropped in ("true", "false"):
        chosen = experiment(CONFIG, f"train.drop_last={dropped}", "data.samples=81")
        trainer = trainer_for(chosen, tmp_path / dropped)
        trainer.fit()
        outcomes.append(weights(trainer.task.model))
    assert torch.equal(*outcomes)


@pytest.mark.parametrize("step", [4, 9, 13])
def test_a_run_that_leaves_it_out_is_resumed_exactly(experiment, tmp_path, monkeypatch, step):
    chosen = experiment(CONFIG, "train.drop_last=true", "model.dropout=0.2")
    whole = dltrain.train(chosen, run_dir=tmp_path / "whole", quiet=True)
    assert (whole.step, whole.epoch) == (27, 3)
    resumed = interrupt_and_resume(chosen, tmp_path / "stopped", step, monkeypatch)
    assert_equal_outcomes(resumed, whole)


def test_no_batch_would_be_left(experiment, tmp_path):
    with pytest.raises(ConfigError, match=r"drop_last: leaves no batch: .* 82 samples.* is 100"):
        trainer_for(experiment(CONFIG, "train.drop_last=true", "train.batch_size=100"), tmp_path)


def test_looks_at_steps_leave_it_out_too(experiment, tmp_path):
    trainer = trainer_for(experiment(CONFIG, "train.drop_last=true"), tmp_path)
    batches = trainer.batches()
    assert {len(next(batches)) for _ in range(30)} == {9}


@pytest.mark.parametrize("samples", [3, 8, 21, 1003])
def test_sequences_in_a_smaller_batch_come_last_and_are_of_any_length(samples):
    lengths = [1 + number % 40 for number in range(samples)]
    sequences = [torch.full((length,), 2) for length in lengths]
    split = LengthBuckets(sequences, torch.arange(samples), seed=0)
    rests = []
    for epoch in range(3):
        batches = list(split.batches(8, epoch=epoch))
        assert [len(batch) for batch in batches[:-1]] == [8] * (-(-samples // 8) - 1)
        index = torch.cat([batch.index for batch in batches])
        assert sorted(index.tolist()) == list(range(samples))
        rests.append(batches[-1].index.tolist())
    if samples == 1003:
        dropped = [lengths[number] for rest in rests for number in rest]
        assert min(dropped) < 15
        assert rests[0] != rests[1] != rests[2]


# ------------------------------------------------------------------ a last batch of one sample


@pytest.mark.parametrize("command", ["check", "train"])
def test_a_last_batch_of_one_sample_is_refused_at_its_line(experiment, tmp_path, call, command):
    experiment(NORMALISED)
    called = call(command, "config.yaml")
    assert called.code == 2
    assert "train.batch_size: the last batch of each epoch has 1 of 82 samples" in called.err
    assert "Expected more than 1 value per channel" in called.err
    assert "train.drop_last: true" in called.err
    assert not (tmp_path / "runs").exists()
    assert call(command, "config.yaml", "train.drop_last=true").code == 0


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        (["train.batch_size=10"], False),  # a last batch of two
        (["train.batch_size=1"], True),
        (["train.batch_size=10", "train.micro_batch=3"], True),
        (["train.batch_size=10", "train.micro_batch=2"], False),
        (["train.batch_size=20", "train.micro_batch=19", "train.drop_last=true"], True),
        (["train.micro_batch=auto"], True),
        (["train.epochs=null", "train.steps=9"], False),  # the run ends before it
        (["train.epochs=null", "train.steps=10"], True),
        (["train.overfit=9"], False),
        (["train.overfit=10"], True),
        (["data.samples=3", "data.validation=1", "train.micro_batch=1"], True),
    ],
)
def test_it_is_refused_where_training_comes_to_it(experiment, tmp_path, options, refused):
    trainer = trainer_for(experiment(NORMALISED, *options), tmp_path)
    assert (error_of(trainer) is not None) == refused


@pytest.mark.parametrize("config", [CONFIG, NORMALISED])
def test_looking_leaves_the_trainer_as_it_was(experiment, tmp_path, config):
    trainer = trainer_for(experiment(config, "model.dropout=0.2"), tmp_path)
    before = trainer.snapshot().to_cpu_copy()
    assert (error_of(trainer) is None) == (config is CONFIG)
    after = trainer.snapshot().to_cpu_copy()
    for kind in ("model", "optimizer", "rng"):
        one, other = getattr(before, kind), getattr(after, kind)
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_model_without_normalization_makes_no_pass_more(experiment, tmp_path):
    trainer = trainer_for(experiment(CONFIG), tmp_path)
    trainer.task.model.register_forward_hook(lambda *_: pytest.fail("a forward pass"))
    assert error_of(trainer) is None


def test_what_fails_on_every_batch_is_left_to_the_first_step(experiment, tmp_path):
    trainer = trainer_for(experiment(NORMALISED), tmp_path)
    trainer.task.loss = lambda batch, phase: 1 / 0
    assert error_of(trainer) is None


# ----------------------------------------------------------------------- errors of evaluations


@pytest.mark.parametrize(("split", "where"), [("val", 5), ("test", 10)])
def test_an_error_of_an_evaluation_names_it(experiment, tmp_path, call, monkeypatch, split, where):
    config = CONFIG | {
        "data": {"name": "toy_spirals", "samples": 80, "validation": 20, "test": 20},
        "train": {"epochs": 2, "batch_size": 8, "device": "cpu"},
    }
    experiment(config)
    from dltrain.tasks.supervised import Supervised

    evaluate = Supervised.evaluate

    def fail(task, batches):
        batches = list(batches)
        task.calls = getattr(task, "calls", 0) + 1
        if task.calls == (1 if split == "val" else 3):
            raise ValueError("can't be compared")
        return evaluate(task, iter(batches))

    monkeypatch.setattr(Supervised, "evaluate", fail)
    called = call("train", "config.yaml", "--run-dir", "run", "--quiet")
    text = f"the evaluation after step {where} fails: {__file__}:190: ValueError: can't be compared"
    assert (called.code, called.err.strip()) == (1, text)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["error"] == text


def test_the_config_knows_it(experiment, tmp_path):
    chosen = experiment(CONFIG, "train.drop_last=true")
    assert yaml.safe_load(chosen.to_yaml())["train"]["drop_last"] is True
