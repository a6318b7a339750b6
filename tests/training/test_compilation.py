"""What train.compile compiles, and that it says so where nothing came of it."""

import pytest
import torch
from graph_runs import RUNS
from small_data import write_images
from torch import nn
from torch._dynamo.utils import counters
from trainers import trainer_for, weights

import dltrain
from dltrain.models.layers import Dropout
from dltrain.training.device import seed_everything

KINDS = ("classifier", "variational autoencoder", "GAN")


@pytest.fixture
def compiled(monkeypatch):
    """Modules that were compiled; by a backend that is quick, for what it makes does not matter."""
    found, compile_module = [], nn.Module.compile

    def compile_quickly(module):
        found.append(module)
        compile_module(module, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", compile_quickly)
    torch._dynamo.reset()
    yield found
    torch._dynamo.reset()


def train_two_steps(chosen, place):
    """The trainer after two steps, and the lines that it showed."""
    trainer, messages = trainer_for(chosen, place), []
    trainer._log_message = messages.append
    seed_everything(1)
    trainer.fit()
    return trainer, [line for line in messages if "compile" in line]


@pytest.mark.filterwarnings("default")  # the compiler's advice is not ours to follow
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_task_calls_is_compiled(experiment, tmp_path, compiled, kind):
    write_images(tmp_path / "images", train=133, test=40, side=8, classes=3)
    options = ["train.epochs=null", "train.steps=2", "train.cuda_graph=off"]
    plain, messages = train_two_steps(experiment(RUNS[kind], *options), tmp_path / "plain")
    assert messages == []
    assert compiled == []
    for number in range(2):  # the second uses the graphs of the first
        before = counters["stats"]["unique_graphs"]
        chosen = experiment(RUNS[kind], *options, "train.compile=true")
        trainer, messages = train_two_steps(chosen, tmp_path / f"compiled-{number}")
        assert messages == []
        if number == 0:
            assert counters["stats"]["unique_graphs"] >= before + len(compiled)
    assert trainer.task.model.state_dict().keys() == plain.task.model.state_dict().keys()
    assert torch.isfinite(weights(trainer.task.model)).all()
    if kind == "variational autoencoder":
        model = trainer.task.model
        assert compiled[-2:] == [model.encoder, model.decoder]


class Stubborn(nn.Module):
    """Refuses to be compiled."""

    def __init__(self, spec):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, spec.num_outputs), Dropout(0.1))

    @torch.compiler.disable
    def forward(self, inputs):
        return self.net(inputs)


@pytest.mark.filterwarnings("default")
def test_where_nothing_is_compiled_a_line_says_so(experiment, tmp_path, compiled, monkeypatch):
    write_images(tmp_path / "images", train=133, test=40, side=8, classes=3)
    experiment(RUNS["classifier"])  # registers the built-ins
    monkeypatch.setattr(dltrain.MODELS, "_components", dict(dltrain.MODELS))

    @dltrain.MODELS.register
    def stubborn(spec, /):
        """Refuses to be compiled."""
        return Stubborn(spec)

    config = RUNS["classifier"] | {"model": "stubborn"}
    options = ["train.epochs=null", "train.steps=2", "train.cuda_graph=off"]
    for name in ("one", "another"):
        chosen = experiment(config, *options, "train.compile=true")
        _, messages = train_two_steps(chosen, tmp_path / name)
        (line,) = messages
        assert line.startswith("train.compile: torch.compile has compiled nothing of this model")
