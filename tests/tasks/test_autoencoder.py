"""Inputs through a narrow code, and the evidence lower bound of a variational one."""

import pytest
import torch
from PIL import Image
from small_data import write_images
from torch.distributions import Normal, kl_divergence
from trainers import assert_equal_outcomes, interrupt_and_resume, trainer_for, weights

from dltrain import train
from dltrain.build import load_trained
from dltrain.commands.check import check
from dltrain.commands.sample import sample_images
from dltrain.config import ConfigError
from dltrain.core.errors import UsageError
from dltrain.data.seeding import derive_seed, normal

CONFIG = {
    "seed": 3,
    "task": "autoencoder",
    "model": {"name": "autoencoder", "latent": 4, "hidden": [16]},
    "data": {"name": "idx", "root": "images", "validation": 30},
    "loss": "mse",
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0},
    "metrics": ["mse", "mae", "r2"],
    "train": {"epochs": 2, "batch_size": 40, "precision": "fp64", "device": "cpu"},
    "recording": {"tensorboard": False},
}
VARIATIONAL = ("model.variational=true", "task.kl_weight=0.7")


@pytest.fixture
def make(experiment, tmp_path):
    write_images(tmp_path / "images", train=133, test=40, side=8, classes=3)
    return lambda *overrides, **changes: experiment(CONFIG | changes, *overrides)


def test_the_loss_is_the_mean_squared_difference(make, tmp_path):
    trainer = trainer_for(make(), tmp_path)
    values = trainer.evaluate(trainer.data.test, "test")
    (batch,) = trainer.data.test.batches(40)
    with torch.no_grad():
        outputs = trainer.task.model(batch.inputs)
    difference = outputs - batch.inputs
    assert values["loss"] == pytest.approx(difference.square().mean().item(), rel=1e-12)
    assert values["mse"] == pytest.approx(values["loss"], rel=1e-12)
    assert values["mae"] == pytest.approx(difference.abs().mean().item(), rel=1e-12)


def test_the_variational_loss_is_the_evidence_lower_bound(make, tmp_path):
    """With torch's own divergence; the squares are those of a normal distribution, less 64/2 ln pi.

    With beta at 1, 64 times the loss is the negative bound.
    """
    trainer = trainer_for(make(*VARIATIONAL), tmp_path)
    task = trainer.task
    (batch,) = trainer.data.test.batches(40)
    values = trainer.evaluate(trainer.data.test, "test")
    with torch.no_grad():
        mean, log_variance = task.model.encoder(batch.inputs).chunk(2, 1)
        posterior = Normal(mean, (log_variance / 2).exp())
        noise = normal(derive_seed(3), batch.index, 4).double()
        outputs = task.model.decoder(posterior.loc + posterior.scale * noise)
    divergence = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1)
    likelihood = Normal(outputs, 0.5**0.5).log_prob(batch.inputs).flatten(1).sum(1)
    constant = 64 / 2 * torch.log(torch.tensor(torch.pi))
    expected = (-likelihood - constant + 0.7 * divergence).mean().item() / 64
    # The constant is a float32's.
    assert values["loss"] == pytest.approx(expected, rel=1e-5)
    assert values["kl_divergence"] == pytest.approx(divergence.mean().item(), rel=1e-12)


@pytest.mark.parametrize("overrides", [(), VARIATIONAL], ids=["plain", "variational"])
def test_nothing_depends_on_the_cut(make, tmp_path, overrides):
    results = []
    for number, cut in enumerate(("train.micro_batch=40", "train.micro_batch=7")):
        sizes = ("train.evaluate_batch_size=40", "train.evaluate_batch_size=9")
        chosen = make(*overrides, cut, sizes[number])
        trainer = trainer_for(chosen, tmp_path / str(number))
        assert [len(b) for b in trainer.data.train.batches(40, epoch=0)] == [40, 40, 23]
        trainer.fit()
        named = {k: v for k, v in trainer.state.last.items() if not k.startswith("system/")}
        results.append((weights(trainer.task.model), named))
    (whole, scalars), (cut, cut_scalars) = results
    assert torch.allclose(whole, cut, rtol=1e-11, atol=1e-12)
    assert cut_scalars == pytest.approx(scalars, rel=1e-10)


@pytest.mark.parametrize("model", ["{name: mlp, hidden: [5]}", "linear"])
def test_any_model_that_gives_so_many_values_will_do(make, tmp_path, model):
    assert check(make(f"model={model}")).total_steps == 6


def test_it_finds_the_line_that_data_lies_on(experiment, tmp_path):
    """Two columns of which one is twice the other go through one number; two that differ don't."""
    path = tmp_path / "line.csv"
    x = torch.randn(300, generator=torch.Generator().manual_seed(0)).tolist()
    y = torch.randn(300, generator=torch.Generator().manual_seed(1)).tolist()
    rows = [f"{a},{2 * a},{b},{i % 2}" for i, (a, b) in enumerate(zip(x, y, strict=True))]
    path.write_text("\n".join(["x,double,other,label", *rows]))

    def left_over(columns):
        config = CONFIG | {
            "model": {"name": "autoencoder", "latent": 1, "hidden": []},
            "data": {"name": "csv", "path": str(path), "target": "label", "features": columns},
            "train": {"epochs": 60, "batch_size": 40, "device": "cpu"},
        }
        summary = train(experiment(config), run_dir=tmp_path / "-".join(columns), quiet=True)
        return summary.metrics["test/loss"]

    assert left_over(["x", "double"]) < 1e-3
    assert left_over(["x", "other"]) > 0.2


def test_a_stopped_variational_run_goes_on_exactly(make, tmp_path, monkeypatch):
    options = (*VARIATIONAL, "train.micro_batch=17", "train.ema=0.9", "checkpoint.every=2 steps")
    whole = train(make(*options), run_dir=tmp_path / "whole", quiet=True)
    again = interrupt_and_resume(make(*options), tmp_path / "cut", 4, monkeypatch)
    assert_equal_outcomes(again, whole)


def test_reconstructions_stand_under_their_inputs(make, tmp_path):
    chosen = make("recording.images=10", recording={"tensorboard": True})
    trainer = trainer_for(chosen, tmp_path)
    trainer.evaluate(trainer.data.test, "test")
    (page,) = trainer.task.figures()
    assert (page.tag, page.kind) == ("reconstructions", "image")
    # One full row of 8, of 8 pixels shown as 56 with 2 between, over its reconstruction.
    assert page.content.shape == (3, 2 * 58 + 2, 8 * 58 + 2)
    (batch,) = trainer.data.test.batches(40)
    pixels = (batch.inputs[0] * trainer.data.spec.inputs.std[0]) + trainer.data.spec.inputs.mean[0]
    shown = page.content[:, 2:58:7, 2:58:7].double() / 255
    assert torch.allclose(shown, pixels.expand(3, -1, -1), atol=0.003)


@pytest.mark.parametrize("count", [3, 8, 17, 20])
def test_any_number_of_pictures_can_be_shown(make, tmp_path, count):
    chosen = make(*VARIATIONAL, f"recording.images={count}", recording={"tensorboard": True})
    trainer = trainer_for(chosen, tmp_path)
    trainer.evaluate(trainer.data.test, "test")
    assert [page.tag for page in trainer.task.figures()] == ["reconstructions", "samples"]


def test_a_variational_model_makes_new_pictures(make, tmp_path):
    train(make(*VARIATIONAL), run_dir=tmp_path / "run", quiet=True)
    result = sample_images(tmp_path / "run", num_samples=9)
    with Image.open(result.path) as sheet:
        assert sheet.size == (3 * 58 + 2, 3 * 58 + 2)
    trained = load_trained(tmp_path / "run")
    assert trained.spec.class_names == ("0", "1", "2"), "the data's own spec is what is saved"


def test_a_plain_one_does_not(make, tmp_path):
    train(make(), run_dir=tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match="generates no images"):
        sample_images(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "cross_entropy"}, r": loss: loss 'cross_entropy' expected classes"),
        ({"metrics": ["accuracy"]}, r": metrics.0: metric 'accuracy' expected classes"),
        ({"data": "toy_text"}, r": task: task 'autoencoder' expected images or tables"),
        (
            {"task": {"name": "autoencoder", "kl_weight": -1}},
            r": task.kl_weight: expected a number",
        ),
    ],
)
def test_a_mistake_is_told_at_its_line(make, changes, message):
    with pytest.raises(ConfigError, match=r"config.yaml:\d+:\d+" + message):
        check(make(**changes))
