"""Where the time of a step goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_data import write_color_images

import dltrain
from dltrain import profile
from dltrain.data.image_folder import _ReadImage

CONFIG = {
    "name": "t",
    "model": "mlp",
    "data": "toy_spirals",
    "loss": "cross_entropy",
    "optimizer": "adamw",
    "train": {"epochs": 1, "batch_size": 32, "device": "cpu"},
    "recording": {"tensorboard": False},
}


def test_the_parts_make_up_the_step(experiment, tmp_path):
    result = profile(experiment(CONFIG), tmp_path / "trace.json", steps=20)
    assert list(result.parts) == ["data", "forward", "backward", "optimizer", "logging", "other"]
    assert all(seconds >= 0 for seconds in result.parts.values())
    total = sum(result.parts.values())
    assert 32 / total == pytest.approx(result.samples_per_second, rel=0.2)  # one batch is smaller


def test_operators_and_trace_are_of_the_steps(experiment, tmp_path):
    result = profile(experiment(CONFIG), tmp_path / "trace.json", steps=20)
    calls = {operator.name: operator.calls for operator in result.operators}
    assert calls["aten::addmm"] == 20 * 2  # two layers
    assert sum(operator.share for operator in result.operators) <= 1 + 1e-9
    trace = json.loads((tmp_path / "trace.json").read_text())
    steps = [event for event in trace["traceEvents"] if event.get("name") == "step"]
    assert len([event for event in steps if event.get("cat") == "user_annotation"]) == 20


class Clock:
    """A time that passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def slow(self, seconds, function):
        """The same function, which takes so long."""

        def call(*arguments, **options):
            self.now += seconds
            return function(*arguments, **options)

        return call


@pytest.mark.parametrize("slow", ["images", "model"])
def test_slow_images_are_told_from_a_slow_model(experiment, tmp_path, monkeypatch, slow):
    write_color_images(tmp_path / "my_images", 20)
    clock, read, forward = Clock(), _ReadImage.__call__, torch.nn.Flatten.forward
    image, model = (0.024, 0.004) if slow == "images" else (0.001, 0.036)
    monkeypatch.setattr("dltrain.commands.profile.time", clock)
    monkeypatch.setattr(_ReadImage, "__call__", clock.slow(image, read))
    monkeypatch.setattr(torch.nn.Flatten, "forward", clock.slow(model, forward))
    data = {"name": "image_folder", "root": "my_images", "size": 8, "workers": 0}
    config = {**CONFIG, "data": data, "train": {**CONFIG["train"], "batch_size": 4}}
    result = profile(experiment(config), tmp_path / "t.json", steps=5)
    if slow == "images":
        assert result.advice.startswith("96% of a step waits for the data")
        assert "data.cache=memory" in result.advice
        assert "more data.workers than 0" in result.advice
    else:
        assert result.advice == "the model takes 90% of a step, and the data 10%"


def test_from_the_command_line(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = Path(__file__).parent.parent.parent / "configs" / "tiny" / "spirals_mlp.yaml"
    called = call("profile", tiny, "--steps", "3", "--json")
    assert called.code == 0, called.err
    assert json.loads(called.out)["steps"] == 3
    assert Path("trace.json").exists()
    called = call("profile", tiny, "--steps", "3")
    assert "ms per step, over 3 steps:" in called.out
    assert not Path("runs").exists()


def test_nothing_of_the_trainer_is_left_changed(experiment, tmp_path):
    whole = dltrain.train(experiment(CONFIG), run_dir=tmp_path / "a", quiet=True)
    profile(experiment(CONFIG), tmp_path / "trace.json", steps=3)
    again = dltrain.train(experiment(CONFIG), run_dir=tmp_path / "b", quiet=True)
    assert whole.weights_sha256 == again.weights_sha256
