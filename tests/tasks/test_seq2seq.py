"""Sequences from sequences: padding changes nothing, and what is written is what is counted."""

import math

import pytest
import torch
from torch.nn import functional as F
from trainers import assert_equal_outcomes, interrupt_and_resume, trainer_for, weights

from dltrain import predict, train
from dltrain.commands.check import check
from dltrain.config import ConfigError
from dltrain.core.data_spec import PADDING

CONFIG = {
    "seed": 3,
    "task": "seq2seq",
    "model": {"name": "seq2seq_lstm", "hidden_size": 12},
    "data": {"name": "toy_digits", "samples": 160, "min_length": 1, "max_length": 6},
    "loss": "cross_entropy",
    "optimizer": {"name": "sgd", "lr": 0.5, "momentum": 0.0},
    "metrics": ["accuracy"],
    "train": {"epochs": 2, "batch_size": 40, "precision": "fp64", "device": "cpu"},
    "recording": {"tensorboard": False},
}


@pytest.mark.parametrize("order", ["reverse", "sort"])
def test_the_data_is_what_it_says(experiment, tmp_path, order):
    data = trainer_for(experiment(CONFIG, f"data.order={order}"), tmp_path).data
    vocabulary, end = data.spec.inputs.vocabulary, len(data.spec.class_names) - 1
    seen = []
    for split in (data.train, data.validation, data.test):
        for batch in split.batches(7):
            for source, wanted in zip(batch.inputs, batch.targets, strict=True):
                digits = [vocabulary[t] for t in source.tolist() if t != PADDING]
                expected = digits[::-1] if order == "reverse" else sorted(digits)
                numbers = wanted[: len(digits) + 1].tolist()
                assert [vocabulary[t] for t in numbers[:-1]] == expected
                assert numbers[-1] == end
                assert not wanted[len(digits) + 1 :].any()
                seen.append("".join(digits))
    assert len(seen) == len(set(seen)) == 160


def test_no_more_sequences_than_there_are(experiment):
    with pytest.raises(
        ConfigError, match=r"data.samples: expected at most 55 sequences of this length, got 56"
    ):
        check(experiment(CONFIG, "data.samples=56", "data.max_length=2"))
    with pytest.raises(
        ConfigError, match=r"data.max_length: expected at least min_length=3, got 2"
    ):
        check(experiment(CONFIG, "data.min_length=3", "data.max_length=2"))


def test_the_loss_is_the_mean_over_all_tokens(experiment, tmp_path):
    trainer = trainer_for(experiment(CONFIG), tmp_path)
    values = trainer.evaluate(trainer.data.test, "test")
    trainer.task.model.eval()
    losses, hits = [], []
    end = len(trainer.data.spec.class_names) - 1
    for batch in trainer.data.test.batches(1):
        length = int((batch.targets != PADDING).sum())
        wanted = batch.targets[:, :length]
        previous = torch.cat([torch.tensor([[end]]), wanted[:, :-1]], dim=1)
        with torch.no_grad():
            outputs = trainer.task.model(batch.inputs, previous)[0]
        losses.append(F.cross_entropy(outputs, wanted[0], reduction="none"))
        hits.append(outputs.argmax(1) == wanted[0])
    assert values["loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-12)
    assert values["accuracy"] == pytest.approx(torch.cat(hits).double().mean().item(), rel=1e-12)


@pytest.mark.parametrize("change", ["train.micro_batch=7", "train.evaluate_batch_size=3"])
def test_nothing_depends_on_how_sequences_are_batched(experiment, tmp_path, change):
    results = []
    for number, overrides in enumerate(([], [change])):
        trainer = trainer_for(experiment(CONFIG, *overrides), tmp_path / str(number))
        trainer.fit()
        named = {k: v for k, v in trainer.state.last.items() if not k.startswith("system/")}
        results.append((weights(trainer.task.model), named))
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-11, atol=1e-12)
    assert results[1][1] == pytest.approx(results[0][1], rel=1e-10)


def test_writing_token_by_token_equals_reading_them_at_once(experiment, tmp_path):
    task = trainer_for(experiment(CONFIG), tmp_path).task
    task.model.eval()
    inputs = torch.randint(2, 12, (5, 6))
    inputs[2, 3:] = PADDING
    with torch.no_grad():
        written = task.generate(inputs, 9)
        previous = torch.cat([torch.full((5, 1), task.end), written[:, :-1]], dim=1)
        assert torch.equal(task.model(inputs, previous).argmax(2), written)


def test_padding_further_changes_nothing(experiment, tmp_path):
    task = trainer_for(experiment(CONFIG), tmp_path).task
    task.model.eval()
    inputs, previous = torch.randint(2, 12, (5, 6)), torch.randint(2, 12, (5, 4))
    inputs[2, 3:] = PADDING
    further = F.pad(inputs, (0, 7), value=PADDING)
    with torch.no_grad():
        near, far = task.model(inputs, previous), task.model(further, previous)
        alone = task.model(inputs[2:3, :3], previous[2:3])
    assert torch.allclose(near, far, rtol=1e-12, atol=1e-12)
    assert torch.allclose(near[2:3], alone, rtol=1e-12, atol=1e-12)


def test_a_text_is_written_alike_whatever_stands_beside_it(experiment, tmp_path):
    """An untrained model, which rarely ends by itself: how far it writes is the text's own."""
    train(
        experiment(CONFIG, "train.epochs=1", "optimizer.lr=1e-9"),
        run_dir=tmp_path / "run",
        quiet=True,
    )
    texts = ["1", "22", "123456", "90817263544536271809"]
    together = [item.text for item in predict(tmp_path / "run", texts)]
    alone = [item.text for text in texts for item in predict(tmp_path / "run", [text])]
    assert together == alone
    assert max(map(len, together)) > 2 * 1 + 10


def test_exact_match_counts_whole_sequences(experiment, tmp_path, monkeypatch):
    """One token wrong in one sequence, and rubbish after the end of all."""
    trainer = trainer_for(experiment(CONFIG), tmp_path)
    batches = iter(trainer.data.test.batches(16))

    def generate(inputs, length):
        targets = next(batches).targets.clone()
        written = targets.where(targets != PADDING, 5)
        written[3, 0] = 2 if written[3, 0] == 3 else 3
        return written

    monkeypatch.setattr(trainer.task, "generate", generate)
    values = trainer.evaluate(trainer.data.test, "test")
    assert len(trainer.data.test) == 16
    assert values["exact_match"] == pytest.approx(15 / 16)


def test_scores_that_are_nan_match_nothing(experiment, tmp_path):
    trainer = trainer_for(experiment(CONFIG), tmp_path)
    with torch.no_grad():
        next(trainer.task.model.parameters()).fill_(math.nan)
    values = trainer.evaluate(trainer.data.test, "test")
    assert all(map(math.isnan, values.values())), values


def test_what_is_learnt_is_predicted(experiment, tmp_path, call):
    config = CONFIG | {
        "data": {"name": "toy_digits", "samples": 2000, "min_length": 1, "max_length": 4},
        "model": {"name": "seq2seq_lstm", "hidden_size": 64},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "schedule": "one_cycle",
        "train": {"epochs": 12, "batch_size": 64, "device": "cpu"},
        "recording": {"tensorboard": True},
    }
    run = tmp_path / "run"
    summary = train(experiment(config), run_dir=run, quiet=True)
    assert summary.metrics["test/exact_match"] > 0.95
    called = call("predict", run, "1234", "77")
    assert called.code == 0
    assert called.out == "1234\t4321\n77\t77\n"
    (tmp_path / "lines.txt").write_text("31\n502\n")
    assert [p.text for p in predict(run, [tmp_path / "lines.txt"])] == ["13", "205"]


def test_pages_show_inputs_and_outputs(experiment, tmp_path):
    config = CONFIG | {"recording": {"images": 3}}
    trainer = trainer_for(experiment(config), tmp_path)
    trainer.evaluate(trainer.data.test, "test")
    (page,) = trainer.task.figures()
    assert page.kind == "text"
    lines = page.content.splitlines()
    assert len(lines) == 5
    assert all(line.endswith("right |") or "expected" in line for line in lines[2:])


def test_a_stopped_run_goes_on_exactly(experiment, tmp_path, monkeypatch):
    options = (
        *("model.dropout=0.3", "train.micro_batch=17", "train.ema=0.9", "train.precision=fp32"),
        *("optimizer={name: adamw, lr: 0.01}", "checkpoint.every=2 steps"),
    )
    whole = train(experiment(CONFIG, *options), run_dir=tmp_path / "whole", quiet=True)
    again = interrupt_and_resume(experiment(CONFIG, *options), tmp_path / "cut", 5, monkeypatch)
    assert_equal_outcomes(again, whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "text_lstm"}, r": model: task 'seq2seq' expected model 'seq2seq_lstm'"),
        ({"data": "toy_text"}, r": task: task 'seq2seq' expected pairs of sequences"),
        ({"task": "language_model"}, r": task: task 'language_model' expected running text"),
        ({"loss": "hinge"}, r": loss: this loss is for task 'gan'"),
    ],
)
def test_a_mistake_is_told_at_its_line(experiment, changes, message):
    with pytest.raises(ConfigError, match=r"config.yaml:\d+:\d+" + message):
        check(experiment(CONFIG | changes))
