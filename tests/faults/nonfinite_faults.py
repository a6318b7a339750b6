"""Nonfinite losses, gradients and metrics at any step."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import yaml
from rows import Row, with_model
from run_outcomes import differences, outcome
from small_data import write_images
from torch import Tensor, nn

import dltrain
from dltrain.checkpoints.loading import load_checkpoint
from dltrain.checkpoints.store import CheckpointStore
from dltrain.core.errors import RunError
from dltrain.training.trainer import Trainer

WHERE = ("loss", "gradient", "gradient of the first slice")
FAULT: dict[str, int] = {}
"""Location of the fault to its training step."""


class InfiniteGradient(torch.autograd.Function):
    """The identity with an infinite gradient."""

    @staticmethod
    def forward(ctx, inputs: Tensor) -> Tensor:
        return inputs.clone()

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:
        return gradients[0] * math.inf


class Faulty(nn.Module):
    """A small network that fails as FAULT requests."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.last_step = net, -1
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.net(inputs)
        if not self.training:
            return outputs * (math.nan if FAULT.get("evaluation") == int(self.step) else 1)
        if FAULT.get("loss") == int(self.step):
            return outputs * math.nan
        first = self.last_step != int(self.step)
        self.last_step = int(self.step)
        if FAULT.get("gradient") == int(self.step) or (
            first and FAULT.get("gradient of the first slice") == int(self.step)
        ):
            return InfiniteGradient.apply(outputs)  # pyright: ignore[reportReturnType]
        return outputs


def _faulty(spec: dltrain.DataSpec, /) -> nn.Module:
    """Build a network that fails as FAULT requests."""
    (_, height, width), outputs = spec.input_shape, spec.num_outputs
    layers = (nn.Linear(height * width, 8), nn.Dropout(0.2), nn.Linear(8, outputs))
    return Faulty(nn.Sequential(nn.Flatten(), *layers))


CONFIG = {
    "model": "faulty_on_request",
    "data": {"name": "idx", "root": "images", "validation": 30},
    "loss": "cross_entropy",
    "optimizer": {"name": "adamw", "lr": 0.01},
    "metrics": ["accuracy"],
    "train": {
        "steps": 12,
        "batch_size": 32,
        "micro_batch": 20,
        "ema": 0.9,
        "evaluate": "3 steps",
        "device": "cpu",
    },
    "checkpoint": {"every": "2 steps", "keep": 100, "best": "val/loss"},
    "recording": {"log_every": 2, "tensorboard": False},
}


def make_experiment(folder: Path, *overrides: str) -> dltrain.Experiment:
    """Write data and config, and load the experiment."""
    write_images(folder / "images", train=133, test=40, side=8, classes=3)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return dltrain.load(folder / "config.yaml", overrides)


class StepCounter:
    """Context in which the model knows the number of the current step, counted from 1."""

    def __enter__(self) -> None:
        self.original = original = Trainer.train_step

        def counted(trainer, batch):
            trainer.task.model.step.fill_(trainer.state.step + 1)
            original(trainer, batch)

        Trainer.train_step = counted

    def __exit__(self, *_: object) -> None:
        Trainer.train_step = self.original
        FAULT.clear()


@with_model("faulty_on_request", _faulty)
def stops(number: int, folder: Path) -> None:
    """Check that `stop` names the step, keeps weights finite, and allows a bit-exact resume."""
    where, step = WHERE[number % 3], number // 3 + 1
    experiment = make_experiment(folder)
    with StepCounter():
        dltrain.train(experiment, run_dir=folder / "whole", quiet=True)
    expected = outcome(folder / "whole")
    run = folder / "run"
    with StepCounter():
        FAULT[where] = step
        with pytest.raises(RunError, match=f"step {step}: the loss or its gradient is not finite"):
            dltrain.train(experiment, run_dir=run, quiet=True)
    saved = CheckpointStore(run / "checkpoints").all()
    assert [int(path.name[5:]) for path in saved] == _saved_before(step)
    for path in saved:
        snapshot = load_checkpoint(path)
        for tensors in (snapshot.model, snapshot.averaged, snapshot.optimizer):
            assert all(torch.isfinite(t).all() for t in tensors.values())
    if saved:
        with StepCounter():
            dltrain.resume(run, quiet=True)
        assert not differences(run, expected)


def _saved_before(step: int) -> list[int]:
    """Return the checkpoints: every second step, and each evaluation, as the loss decreases."""
    done = range(1, step)
    return [s for s in reversed(done) if s % 2 == 0 or s % 3 == 0]


@with_model("faulty_on_request", _faulty)
def skips(number: int, folder: Path) -> None:
    """Check that `skip` counts the step and makes no update in it."""
    where, step = WHERE[number % 3], number // 3 + 1
    experiment = make_experiment(folder, "train.on_nonfinite=skip", "schedule.name=linear")
    with StepCounter():
        FAULT[where] = step
        summary = dltrain.train(experiment, run_dir=folder / "run", quiet=True)
    assert (summary.status, summary.skipped_steps, summary.step) == ("done", 1, 12)
    for path in CheckpointStore(folder / "run" / "checkpoints").all():
        snapshot = load_checkpoint(path)
        assert all(torch.isfinite(tensor).all() for tensor in snapshot.model.values())
        taken = snapshot.state["trainer"]["step"] - (path.name >= f"step-{step:010d}")
        assert snapshot.state["trainer"]["updates"] == taken
    assert None not in [v for n, v in summary.metrics.items() if not n.startswith("system")]


@with_model("faulty_on_request", _faulty)
def never_best(number: int, folder: Path) -> None:
    """Check that a NaN in the evaluation of step 3, 6, 9 or 12 is never the best value."""
    experiment = make_experiment(folder, "recording.tensorboard=true")
    with StepCounter():
        FAULT["evaluation"] = 3 * (number + 1)
        summary = dltrain.train(experiment, run_dir=folder / "run", quiet=True)
    assert summary.best is not None
    assert math.isfinite(summary.best["value"])
    assert summary.best["step"] != 3 * (number + 1)
    text = (folder / "run" / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert '"name": "loss", "value": null' in text


ROWS = [
    Row(
        "NaN or infinity in a loss or a gradient, on_nonfinite: stop",
        "the step is named, no saved value is affected, resume is bit-exact",
        stops,
        pr=24,
        release=24,
    ),
    Row(
        "NaN or infinity in a loss or a gradient, on_nonfinite: skip",
        "the step is skipped and counted, the run finishes",
        skips,
        pr=12,
        release=36,
    ),
    Row("a metric that is NaN", "it is null, and never the best", never_best, pr=4, release=4),
]
