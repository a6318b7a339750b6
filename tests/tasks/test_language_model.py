"""Tokens are what is counted; text depends on its seed alone."""

import math

import pytest
import torch
from small_data import write_text
from torch.nn import functional as F
from trainers import trainer_for

from dltrain import resume, train
from dltrain.config import ConfigError
from dltrain.core.batch import Batch
from dltrain.core.data_spec import PADDING, UNKNOWN
from dltrain.rundir.directory import Run
from dltrain.tasks.language_model import seeded

CONFIG = {
    "seed": 3,
    "task": "language_model",
    "model": {"name": "text_generator", "hidden_size": 8},
    "data": {"name": "text_file", "path": "text.txt", "window": 9, "validation": 203, "test": 100},
    "loss": "cross_entropy",
    "optimizer": {"name": "sgd", "lr": 0.5, "momentum": 0.0, "weight_decay": 0.0},
    "metrics": ["accuracy", {"name": "top_k", "k": 3}],
    "train": {"steps": 6, "batch_size": 16, "precision": "fp64", "device": "cpu"},
    "recording": {"tensorboard": False},
}


@pytest.fixture
def make(experiment, tmp_path):
    write_text(tmp_path / "text.txt", 60)
    return lambda *overrides: experiment(CONFIG, *overrides)


@pytest.fixture
def task(make, tmp_path):
    trainer = trainer_for(make(), tmp_path)
    trainer.task.model.eval()
    return trainer.task


@pytest.mark.parametrize("size", [1, 4, 64])
def test_the_loss_is_the_mean_over_all_tokens(make, tmp_path, size):
    trainer = trainer_for(make(f"train.evaluate_batch_size={size}"), tmp_path)
    values = trainer.evaluate(trainer.data.validation, "val")
    trainer.task.model.eval()
    losses, hits = [], []
    for batch in trainer.data.validation.batches(1):
        length = int((batch.targets != PADDING).sum())
        with torch.no_grad():
            outputs = trainer.task.model(batch.inputs[:, :length])[0]
        wanted = batch.targets[0, :length]
        losses.append(F.cross_entropy(outputs, wanted, reduction="none"))
        hits.append(outputs.argmax(1) == wanted)
    assert len(torch.cat(losses)) == 203
    mean = torch.cat(losses).mean().item()
    assert values["loss"] == pytest.approx(mean, rel=1e-12)
    assert values["perplexity"] == pytest.approx(math.exp(mean), rel=1e-12)
    assert values["bits_per_token"] == pytest.approx(mean / math.log(2), rel=1e-12)
    assert values["accuracy"] == pytest.approx(torch.cat(hits).double().mean().item(), rel=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        "{name: cross_entropy, label_smoothing: 0.3}",
        "{name: cross_entropy, class_weights: balanced}",
        "bce",
    ],
)
def test_perplexity_is_that_of_the_probabilities_whatever_the_loss_adds(make, tmp_path, loss):
    chosen = make(f"loss={loss}")
    if "balanced" in loss:  # every token of the vocabulary needs a weight, the two first as well
        classes = trainer_for(make(), tmp_path).data.spec.num_classes
        weights = [1 + 9 * (number % 3) for number in range(classes)]
        chosen = make(f"loss={{name: cross_entropy, class_weights: {weights}}}")
    trainer = trainer_for(chosen, tmp_path)
    trainer.fit()  # of untrained models, all these are about the logarithm of the vocabulary
    for split in (trainer.data.validation, trainer.data.test):
        values = trainer.evaluate(split, "val")
        trainer.task.model.eval()
        nats, tokens = 0.0, 0
        for batch in split.batches(5):
            counts = batch.targets != PADDING
            with torch.no_grad():
                logits = trainer.task.model(batch.inputs)[counts]
            nats += F.cross_entropy(logits, batch.targets[counts], reduction="sum").item()
            tokens += int(counts.sum())
        assert values["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-12)
        assert values["bits_per_token"] == pytest.approx(nats / tokens / math.log(2), rel=1e-12)
        assert values["loss"] != pytest.approx(nats / tokens, rel=1e-4)


def test_padding_counts_in_neither_loss_nor_weight(task):
    inputs, targets = torch.randint(2, 9, (3, 9)), torch.randint(2, 9, (3, 9))
    targets[1, 4:] = PADDING
    batch = Batch(inputs, targets, torch.arange(3))
    (phase,) = task.phases
    assert int(task.weight(batch, phase)) == 22
    with torch.no_grad():
        outputs = task.model(inputs).flatten(0, 1)
        expected = F.cross_entropy(outputs, targets.flatten(), ignore_index=PADDING)
        ours = task.loss(batch, phase) / task.weight(batch, phase)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-12)


def test_class_weights_are_those_of_the_tokens(make, tmp_path):
    size = len(trainer_for(make(), tmp_path).data.spec.class_names)
    weights = [1 + i / 10 for i in range(size)]
    trainer = trainer_for(
        make(f"loss={{name: cross_entropy, class_weights: {weights}}}"), tmp_path / "weighted"
    )
    values = trainer.evaluate(trainer.data.validation, "val")
    trainer.task.model.eval()
    (batch,) = trainer.data.validation.batches(1000)
    with torch.no_grad():
        outputs = trainer.task.model(batch.inputs).flatten(0, 1)
    expected = F.cross_entropy(
        outputs, batch.targets.flatten(), torch.tensor(weights).double(), ignore_index=PADDING
    )
    assert values["loss"] == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("model", ["text_generator", "{name: gpt, width: 8, heads: 2, layers: 2}"])
def test_nothing_depends_on_micro_batches(make, tmp_path, model):
    results = []
    for micro in (16, 5, 1):
        chosen = make(f"model={model}", f"train.micro_batch={micro}", "train.clip_norm=0.1")
        trainer = trainer_for(chosen, tmp_path / str(micro))
        trainer.fit()
        named = {k: v for k, v in trainer.state.last.items() if not k.startswith("system/")}
        weights = torch.cat([p.detach().flatten() for p in trainer.task.model.parameters()])
        results.append((weights, torch.tensor(list(named.values())).double()))
    for cut in results[1:]:
        for whole, part in zip(results[0], cut, strict=True):
            assert torch.allclose(whole, part, rtol=1e-10, atol=1e-12)


def test_the_same_seed_gives_the_same_text(task):
    def text(seed):
        return list(task.generate([5], 40, 1.0, None, seeded(seed)))

    state = torch.get_rng_state()
    assert text(1) == text(1)
    assert text(1) != text(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert not {PADDING, UNKNOWN} & set(text(1))


@pytest.mark.parametrize("model", ["text_generator", "{name: gpt, width: 8, heads: 2}"])
def test_the_most_probable_token_alone_is_greedy(make, tmp_path, model):
    task = trainer_for(make(f"model={model}"), tmp_path).task
    task.model.eval()
    seen = [5, 6, 7]
    for token in task.generate(seen, 20, 1.0, 1, seeded(0)):
        # the LSTM remembers it all, and gpt sees a window
        given = seen if model == "text_generator" else seen[-9:]
        with torch.no_grad():
            logits = task.model(torch.tensor([given]))[0, -1]
        assert token == int(logits[2:].argmax()) + 2
        seen.append(token)


def test_draws_follow_the_temperature_and_the_model(task):
    temperature, draws = 0.5, 4000
    with torch.no_grad():
        logits = task.model(torch.tensor([[5]]))[0, -1] * 5  # far from even
        task.model.output.weight *= 5
        task.model.output.bias *= 5
    generator = seeded(0)
    drawn = torch.tensor(
        [next(task.generate([5], 1, temperature, 4, generator)) for _ in range(draws)]
    )
    best = logits[2:].topk(4)
    expected = torch.zeros_like(logits)
    expected[best.indices + 2] = (best.values / temperature).softmax(dim=0)
    shares = torch.bincount(drawn, minlength=len(logits)) / draws
    assert (shares - expected).abs().max() < 4 * 0.5 / math.sqrt(draws)
    assert shares[expected == 0].sum() == 0


def test_each_evaluation_shows_a_text_and_leaves_chance_alone(make, tmp_path):
    trainer = trainer_for(make("recording.tensorboard=true"), tmp_path)
    assert trainer.task.figures() == []
    state = torch.get_rng_state()
    texts = []
    for _ in range(2):
        trainer.evaluate(trainer.data.validation, "val")
        (page,) = trainer.task.figures()
        assert (page.tag, page.kind) == ("sample", "text")
        texts.append(page.content)
    assert texts[0] == texts[1]
    assert len(texts[0].replace("\n    ", "\n")) == 4 + 200
    assert torch.equal(torch.get_rng_state(), state)


def test_a_stopped_run_goes_on_exactly(make, tmp_path, monkeypatch):
    from dltrain.core.errors import InterruptedRunError
    from dltrain.training.trainer import Trainer

    options = ("model.dropout=0.3", "train.steps=70", "checkpoint.every=7 steps")
    whole = train(make(*options), run_dir=tmp_path / "whole", quiet=True)

    original = Trainer.train_step

    def stop_in_the_second_epoch(self, batch):
        original(self, batch)
        if self.state.step == self.steps_per_epoch + 2:
            self.stop_signal = 15

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stop_in_the_second_epoch)
        with pytest.raises(InterruptedRunError):
            train(make(*options), run_dir=tmp_path / "cut", quiet=True)
    assert Run.open(tmp_path / "cut").summary().step < 70
    again = resume(tmp_path / "cut", quiet=True)
    assert again.weights_sha256 == whole.weights_sha256
    same = {k: v for k, v in whole.metrics.items() if not k.startswith("system/")}
    assert {k: again.metrics[k] for k in same} == same


def test_it_learns(make, tmp_path):
    chosen = make("train.steps=150", "optimizer={name: adamw, lr: 0.02}", "model.hidden_size=32")
    trainer = trainer_for(chosen, tmp_path)
    before = trainer.evaluate(trainer.data.validation, "val")["loss"]
    trainer.fit()
    # words of this text are drawn evenly, so that only their letters can be learned
    assert trainer.state.last["val/loss"] < 0.5 * before


def test_data_that_is_no_text_is_refused(make):
    with pytest.raises(ConfigError, match=r"'language_model' expected running text: use data"):
        trainer_for(make("data=toy_blobs", "model=mlp"), None)
