"""Out of memory in a step: micro-batches are halved, and results do not change."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import yaml
from rows import Row, with_model
from run_outcomes import outcome
from small_data import write_images
from torch import Tensor, nn

import dltrain
from dltrain.checkpoints.loading import load_checkpoint
from dltrain.checkpoints.store import CheckpointStore
from dltrain.core.errors import RunError

MAX_SAMPLES: list[int] = [0]
"""Maximum number of samples in a training pass."""


class LimitedMemory(nn.Module):
    """A model with random state and batch statistics that runs out of memory in training."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.passes = net, 0

    def forward(self, inputs: Tensor) -> Tensor:
        out_of_memory = self.training and len(inputs) > MAX_SAMPLES[0]
        # Fail after batch statistics have been updated; batch norm needs two samples.
        outputs = self.net(inputs) if len(inputs) > 1 or not self.training else inputs
        if out_of_memory:
            raise torch.OutOfMemoryError("out of memory")
        return outputs * (1 + 0.1 * random.random())


def _limited_memory(spec: dltrain.DataSpec, /) -> nn.Module:
    """Build a network that runs out of memory."""
    (_, height, width), outputs = spec.input_shape, spec.num_outputs
    first = nn.Linear(height * width, 16)
    rest = (nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, outputs))
    return LimitedMemory(nn.Sequential(nn.Flatten(), first, *rest))


CONFIG = {
    "model": "limited_memory",
    "data": {"name": "idx", "root": "images", "validation": 30, "augment": {"shift": 1}},
    "loss": "cross_entropy",
    "optimizer": {"name": "adamw", "lr": 0.01},
    "train": {"epochs": 3, "batch_size": 32, "ema": 0.9, "clip_norm": 1.0, "device": "cpu"},
    "checkpoint": {"every": "2 steps", "keep": 100},
    "recording": {"log_every": 2},
}


def train(folder: Path, name: str, micro_batch: object) -> Path:
    """Train, and return the run directory."""
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    experiment = dltrain.load(folder / "config.yaml", [f"train.micro_batch={micro_batch}"])
    dltrain.train(experiment, run_dir=folder / name, quiet=True)
    return folder / name


@with_model("limited_memory", _limited_memory)
def out_of_memory(number: int, folder: Path) -> None:
    """Run out of memory above 2, 3, ... samples; compare with a run of the final micro-batch."""
    # 104 training samples, so that no slice has a single sample, which batch norm refuses.
    write_images(folder / "images", train=134, test=40, side=8, classes=3)
    MAX_SAMPLES[0] = limit = number + 2
    found = 32
    while found > limit:
        found //= 2
    auto = train(folder, "auto", "auto")
    same = train(folder, "same", found)
    states = [outcome(run) for run in (auto, same)]
    for state in states:
        state["state"].pop("micro_batch")
    assert states[0] == states[1]
    newest = load_checkpoint(CheckpointStore(auto / "checkpoints").all()[0])
    assert newest.state["trainer"]["micro_batch"] == (found if found < 32 else None)
    message = f"continuing with micro-batches of {found}"
    assert (message in (auto / "log.txt").read_text()) == (found < 32)


@with_model("limited_memory", _limited_memory)
def single_sample(number: int, folder: Path) -> None:
    """Run out of memory with a single sample, or without `auto`: one line explains it."""
    write_images(folder / "images", train=134, test=40, side=8, classes=3)
    MAX_SAMPLES[0] = 0
    words = ("out of memory with a single sample", "try train.micro_batch=auto")[number]
    with pytest.raises(RunError, match=words) as error:
        train(folder, "run", ("auto", "null")[number])
    assert len(str(error.value).splitlines()) == 1


@with_model("limited_memory", _limited_memory)
def remembered(number: int, folder: Path) -> None:
    """Resume a run: it uses the size that was found, without trying larger ones again."""
    write_images(folder / "images", train=134, test=40, side=8, classes=3)
    MAX_SAMPLES[0] = 9
    run = train(folder, "run", "auto")
    expected = outcome(run)
    (run / "summary.json").unlink()
    for path in CheckpointStore(run / "checkpoints").all()[: 1 + number]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    MAX_SAMPLES[0] = 100  # memory suffices now, but the outcome must not change
    dltrain.resume(run, quiet=True)
    assert outcome(run) == expected


ROWS = [
    Row(
        "out of memory above k samples, micro_batch: auto",
        "halves the micro-batch and continues, bitwise identical to a run configured this way "
        "from the start",
        out_of_memory,
        pr=10,
        release=31,
    ),
    Row(
        "out of memory with one sample, or without auto", "one line", single_sample, pr=2, release=2
    ),
    Row(
        "out of memory, then resumed",
        "continues with the size found before, bitwise identical",
        remembered,
        pr=3,
        release=3,
    ),
]
