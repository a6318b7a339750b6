"""What can be known before the first step is exact where it can be."""

import math
from pathlib import Path

import pytest
from small_runs import read_metric_lines, write_folder

import dltrain
from dltrain.commands.check import check
from dltrain.core.errors import UsageError

TEXT = ("data={name: toy_text, samples: 200}", "metrics=[]", "checkpoint.best=null")


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path)
    return lambda *overrides: dltrain.load("config.yaml", overrides)


def test_a_linear_model_on_8_x_8_pixels_and_3_classes(load):
    found = check(load("model=linear", "train={steps: null, epochs: 5}", "optimizer=adam"))
    assert found.parameters == found.trainable_parameters == 64 * 3 + 3
    assert found.flops_per_sample == 2 * 64 * 3
    assert (found.steps_per_epoch, found.total_steps) == (math.ceil(103 / 32), 5 * 4)
    assert found.sizes == {"train": 103, "val": 30, "test": 40}
    assert found.source == "images"
    assert (found.device, found.precision) == ("cpu", "fp32")
    # weights, gradients and Adam's two averages; the rest is a step counter and the activations
    numbers = 4 * (64 * 3 + 3) * 4
    assert numbers < found.memory_bytes < numbers + 32 * (64 + 16) * 4 * 2


def test_each_layer_counts(load):
    found = check(load("model={name: mlp, hidden: [10, 7]}"))
    assert found.parameters == (64 * 10 + 10) + (10 * 7 + 7) + (7 * 3 + 3)
    assert found.flops_per_sample == 2 * (64 * 10 + 10 * 7 + 7 * 3)


def test_the_first_loss_is_that_of_the_first_batch(load):
    """Which is what training then records first."""
    experiment = load("recording.log_every=1", "model=linear")
    found = check(experiment)
    dltrain.train(experiment, quiet=True)
    first = next(
        line for line in read_metric_lines(Path("runs/config/0001")) if line["name"] == "loss"
    )
    assert found.initial_loss == pytest.approx(first["value"], rel=1e-6)


def test_micro_batches_need_less_memory_and_give_the_same_loss(load):
    whole, sliced = (check(load(f"train.micro_batch={size}")) for size in ("null", 4))
    assert sliced.memory_bytes < whole.memory_bytes
    assert sliced.initial_loss == pytest.approx(whole.initial_loss, rel=1e-6)


def test_nothing_is_left_behind(load, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    check(load("recording.tensorboard=true"))
    assert sorted(tmp_path.rglob("*")) == before


def test_what_does_not_fit_the_data_is_an_error_at_its_line(call, load):
    ended = call("check", "config.yaml", "checkpoint.best=val/acuracy", "data.validation=500")
    assert ended.code == 2
    assert ended.err.startswith("command line: data.validation=500: data.validation: 500 of 133")
    ended = call("check", "config.yaml", "checkpoint.best=val/acuracy")
    assert "did you mean 'val/accuracy'?" in ended.err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model={name: dcgan, channels: []}"],
            "model.channels: model 'dcgan' expected",
        ),
        (["model=seq2seq_lstm", *TEXT], "model: this model takes more than inputs"),
        (["model=text_generator", *TEXT], "the task expected model outputs of shape"),
    ],
)
def test_a_model_that_does_not_fit_is_told_in_words(overrides, message, load):
    with pytest.raises(UsageError, match=message):
        check(load(*overrides))


def test_predictions_that_are_not_numbers_can_be_evaluated(load):
    """A step can make weights infinite, and the run is to end at the next one, in words."""
    check(load("optimizer={name: adamw, lr: 1.0, weight_decay: 1e+30}"))


def test_a_size_that_no_memory_holds_is_told_at_its_key(load):
    with pytest.raises(UsageError, match=r"^command line: data=.*: data: can't be built: "):
        check(load("data={name: toy_line, samples: 1000000000000000}"))


def test_a_component_that_raises_anything_is_told_at_its_line(load, monkeypatch):
    from dltrain.core.registry import MODELS

    def broken(spec, /):
        """A model of a user's own."""
        raise KeyError("width")

    monkeypatch.setattr(MODELS, "_components", dict(MODELS))
    MODELS.register("broken")(broken)
    with pytest.raises(
        UsageError, match=r"model: can't be built: .*test_check\.py:\d+: KeyError: 'width'"
    ):
        check(load("model=broken"))
