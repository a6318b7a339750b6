"""The range test, against problems whose best rates are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dltrain import tune_lr
from dltrain.core.errors import RunError, UsageError

CONFIGS = Path(__file__).parent.parent.parent / "configs"
CONFIG = {
    "name": "t",
    "model": "linear",
    "data": {"name": "toy_line", "noise": 0.0},
    "loss": "mse",
    "optimizer": {"name": "sgd", "lr": 1e-4, "momentum": 0.0},
    "train": {"epochs": 1, "batch_size": 64, "device": "cpu"},
    "recording": {"tensorboard": False},
}


def test_gradient_descent_on_a_quadratic(experiment, tmp_path):
    """The loss's largest curvature, the bias's, is 2, so descent diverges above rate 1."""
    found = tune_lr(experiment(CONFIG), tmp_path / "lr.html", highest=30.0)
    assert 0.01 <= found.suggestion <= 0.2
    assert found.suggestion < found.lowest_at < 3.0
    assert found.configured == 1e-4
    assert len(found.rates) == len(found.losses)
    assert found.rates[-1] < 30.0  # it ended where the loss rose
    page = (tmp_path / "lr.html").read_text()
    assert f"Suggested: {found.suggestion:g}" in page
    assert "<svg" in page


def test_the_schedule_and_the_configured_rate_change_nothing(experiment, tmp_path):
    plain = tune_lr(experiment(CONFIG), tmp_path / "lr.html")
    other = {
        **CONFIG,
        "schedule": {"name": "one_cycle"},
        "optimizer": {**CONFIG["optimizer"], "lr": 0.5},
    }
    again = tune_lr(experiment(other), tmp_path / "lr.html")
    assert again.suggestion == plain.suggestion
    assert again.losses == pytest.approx(plain.losses, rel=1e-3)


def test_what_can_not_learn_is_said(experiment, tmp_path):
    config = {**CONFIG, "train": {**CONFIG["train"], "batch_size": 1000}}  # all, in every step
    with pytest.raises(RunError, match="no rate made the loss fall"):
        tune_lr(experiment(config), tmp_path / "lr.html", lowest=1e-12, highest=1e-11)
    assert not (tmp_path / "lr.html").exists()


def test_a_loss_that_falls_by_chance_alone_gives_no_suggestion(experiment, tmp_path):
    """Targets of a million, in small batches whose losses differ more than training changes."""
    rows = [f"{n % 17 / 17},{1e6 * (1 + n % 17 / 4) + n + 0.5}" for n in range(200)]
    (tmp_path / "houses.csv").write_text("\n".join(["a,price", *rows]))
    config = {
        **CONFIG,
        "model": {"name": "mlp", "hidden": [16]},
        "data": {"name": "csv", "path": "houses.csv", "target": "price"},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "train": {"epochs": 1, "batch_size": 8, "device": "cpu"},
    }
    with pytest.raises(RunError) as error:
        tune_lr(experiment(config), tmp_path / "lr.html", highest=0.1)
    message = str(error.value)
    assert message.startswith("no suggestion: no rate made the loss fall enough, from 1e-06 to")
    assert "% of that" in message
    assert message.endswith("targets so large need data.standardise_target=true")
    assert not (tmp_path / "lr.html").exists()
    config["data"] = {**config["data"], "standardise_target": True}
    standardised = tune_lr(experiment(config), tmp_path / "lr.html")
    assert standardised.suggestion > 1e-3


def test_a_loss_that_is_not_finite_at_the_first_step_gives_no_suggestion(experiment, tmp_path):
    config = {**CONFIG, "model": {"name": "stochastic", "nan_at": list(range(1, 300))}}
    with pytest.raises(RunError, match="no suggestion: the loss is not finite at the first step"):
        tune_lr(experiment(config), tmp_path / "lr.html")


def test_a_gan_has_two_rates(experiment, tmp_path):
    config = {
        **CONFIG,
        "task": "gan",
        "model": {"name": "gan_mlp"},
        "data": "toy_spirals",
        "loss": "non_saturating",
        "optimizer": "adam",
    }
    with pytest.raises(UsageError, match="discriminator, generator"):
        tune_lr(experiment(config), tmp_path / "lr.html")


def test_from_the_command_line(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    called = call("tune-lr", CONFIGS / "tiny" / "spirals_mlp.yaml", "optimizer.lr=1e-4", "--json")
    assert called.code == 0, called.err
    result = json.loads(called.out)
    assert result["suggestion"] > 1e-4
    assert Path(result["picture"]).exists()
    assert not Path("runs").exists()
