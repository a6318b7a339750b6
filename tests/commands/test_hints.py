"""Errors and findings recommend nothing that the config has set already."""

import pytest
import torch

import dltrain
from dltrain.commands.check import check
from dltrain.core.errors import RunError


class Greedy(torch.nn.Module):
    """Runs out of memory on request."""

    def __init__(self, spec, training: bool):
        super().__init__()
        self.net = torch.nn.Linear(spec.input_shape[0], spec.num_outputs)
        self.full_when = training

    def forward(self, inputs):
        if self.training == self.full_when:
            raise torch.OutOfMemoryError("out of memory")
        return self.net(inputs)


@pytest.fixture
def fails(experiment, tmp_path, monkeypatch):
    """Return the error of a run that is out of memory."""
    experiment(CONFIG_OF_GREEDY | {"model": "linear"})
    monkeypatch.setattr(dltrain.MODELS, "_components", dict(dltrain.MODELS))

    def greedy(spec: dltrain.DataSpec, /, *, training: bool) -> torch.nn.Module:
        """Fails.

        Args:
            training: Whether in training.
        """
        return Greedy(spec, training)

    dltrain.MODELS.register(greedy)

    def fail(*overrides: str) -> str:
        with pytest.raises(RunError) as error:
            dltrain.train(experiment(CONFIG_OF_GREEDY, *overrides), quiet=True)
        return str(error.value)

    return fail


CONFIG_OF_GREEDY = {
    "model": {"name": "greedy", "training": True},
    "data": {"name": "toy_blobs", "samples": 143},
    "loss": "cross_entropy",
    "optimizer": "adamw",
    "train": {"epochs": 2, "batch_size": 32, "device": "cpu"},
    "recording": {"tensorboard": False},
}


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        ([], "step 1: out of memory on cpu; try train.micro_batch=auto"),
        (
            ["train.micro_batch=8"],
            "step 1: out of memory on cpu; try a train.micro_batch below 8, such as "
            "train.micro_batch=4",
        ),
        (
            ["train.micro_batch=1"],
            "step 1: out of memory on cpu; make the model or its inputs smaller",
        ),
        (
            ["train.micro_batch=auto"],
            "out of memory with a single sample; make the model or its inputs smaller",
        ),
        (
            ["train.micro_batch=auto", "model.training=false"],
            "the evaluation after step 4: out of memory on cpu; try a "
            "train.evaluate_batch_size below 32, such as train.evaluate_batch_size=16",
        ),
        (
            ["train.evaluate_batch_size=1", "model.training=false"],
            "the evaluation after step 4: out of memory on cpu; make the model or its inputs "
            "smaller",
        ),
    ],
)
def test_a_hint_does_not_recommend_what_is_set(fails, overrides, hint):
    assert fails(*overrides) == hint


@pytest.mark.parametrize(
    ("overrides", "advice"),
    [
        ([], "; use f1 or auroc, and consider class weights in the loss"),
        (["metrics=[f1]"], "; consider class weights in the loss"),
        (["loss.class_weights=balanced"], "; use f1 or auroc"),
        (["metrics=[auroc]", "loss.class_weights=balanced"], ""),
    ],
)
def test_against_imbalance_what_is_missing_is_recommended(experiment, tmp_path, overrides, advice):
    rows = [f"{n},{'rare' if n % 20 == 0 else 'often'}" for n in range(200)]
    (tmp_path / "t.csv").write_text("\n".join(["x,y", *rows]))
    config = {
        "model": "linear",
        "data": {"name": "csv", "path": "t.csv", "target": "y"},
        "loss": {"name": "cross_entropy"},
        "optimizer": "adamw",
        "train": {"epochs": 1, "device": "cpu"},
    }
    findings = check(experiment(config, *overrides)).findings
    (message,) = [f.message for f in findings if f.kind == "class imbalance"]
    assert message.endswith(f"accuracy says little here{advice}")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.clip_norm=null", "try a smaller optimizer.lr or train.clip_norm=1.0 ("),
        ("train.clip_norm=1.0", "try a smaller optimizer.lr ("),
    ],
)
def test_clipping_is_not_recommended_where_it_is_on(experiment, override, expected):
    config = CONFIG_OF_GREEDY | {
        "model": "linear",
        "data": {"name": "toy_line", "samples": 60},
        "loss": "mse",
        "optimizer": {"name": "sgd", "lr": 1e30},
    }
    with pytest.raises(RunError, match="the loss or its gradient is not finite") as error:
        dltrain.train(experiment(config, override), quiet=True)
    assert expected in str(error.value)
    assert "half precision" not in str(error.value)
