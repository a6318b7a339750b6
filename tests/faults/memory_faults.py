"""Memory that is full in a step: the slices of a batch are halved, and nothing else changes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import yaml
from exactness import outcome
from rows import Row, with_model
from small_data import write_images
from torch import Tensor, nn

import dltrain
from dltrain.checkpoints.loading import load_checkpoint
from dltrain.checkpoints.store import CheckpointStore
from dltrain.core.errors import RunError

FULL_ABOVE: list[int] = [0]
"""Maximum number of samples in a training pass."""


class Greedy(nn.Module):
    """Dropout, batch statistics, every random generator, and a memory that is small in training."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.passes = net, 0

    def forward(self, inputs: Tensor) -> Tensor:
        full = self.training and len(inputs) > FULL_ABOVE[0]
        # After the statistics of a batch have been added, unless there are none to add.
        outputs = self.net(inputs) if len(inputs) > 1 or not self.training else inputs
        if full:
            raise torch.OutOfMemoryError("out of memory")
        return outputs * (1 + 0.1 * random.random())


def _greedy(spec: dltrain.DataSpec, /) -> nn.Module:
    """A network that needs memory."""
    (_, height, width), outputs = spec.input_shape, spec.num_outputs
    first = nn.Linear(height * width, 16)
    rest = (nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, outputs))
    return Greedy(nn.Sequential(nn.Flatten(), first, *rest))


CONFIG = {
    "model": "greedy",
    "data": {"name": "idx", "root": "images", "validation": 30, "augment": {"shift": 1}},
    "loss": "cross_entropy",
    "optimizer": {"name": "adamw", "lr": 0.01},
    "train": {"epochs": 3, "batch_size": 32, "ema": 0.9, "clip_norm": 1.0, "device": "cpu"},
    "checkpoint": {"every": "2 steps", "keep": 100},
    "recording": {"log_every": 2},
}


def trained(folder: Path, name: str, micro_batch: object) -> Path:
    """The directory of a run."""
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    experiment = dltrain.load(folder / "config.yaml", [f"train.micro_batch={micro_batch}"])
    dltrain.train(experiment, run_dir=folder / name, quiet=True)
    return folder / name


@with_model("greedy", _greedy)
def full(number: int, folder: Path) -> None:
    """Full above 2, 3, … samples: bitwise identical to a run in slices of that size."""
    # 104 to train on, so that no slice has a single sample, which batch norm can't train on.
    write_images(folder / "images", train=134, test=40, side=8, classes=3)
    FULL_ABOVE[0] = bears = number + 2
    found = 32
    while found > bears:
        found //= 2
    auto = trained(folder, "auto", "auto")
    same = trained(folder, "same", found)
    states = [outcome(run) for run in (auto, same)]
    for state in states:
        state["state"].pop("micro_batch")
    assert states[0] == states[1]
    newest = load_checkpoint(CheckpointStore(auto / "checkpoints").all()[0])
    assert newest.state["trainer"]["micro_batch"] == (found if found < 32 else None)
    expected = f"continuing with micro-batches of {found}"
    assert (expected in (auto / "log.txt").read_text()) == (found < 32)


@with_model("greedy", _greedy)
def too_full(number: int, folder: Path) -> None:
    """Not even one sample: a line says so. Without `auto`, a line says what to try."""
    write_images(folder / "images", train=134, test=40, side=8, classes=3)
    FULL_ABOVE[0] = 0
    words = ("too small for a single sample", "try train.micro_batch=auto")[number]
    with pytest.raises(RunError, match=words) as error:
        trained(folder, "run", ("auto", "null")[number])
    assert len(str(error.value).splitlines()) == 1


@with_model("greedy", _greedy)
def remembered(number: int, folder: Path) -> None:
    """A resumed run keeps the size that was found, without trying larger ones again."""
    write_images(folder / "images", train=134, test=40, side=8, classes=3)
    FULL_ABOVE[0] = 9
    run = trained(folder, "run", "auto")
    whole = outcome(run)
    (run / "summary.json").unlink()
    for path in CheckpointStore(run / "checkpoints").all()[: 1 + number]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    FULL_ABOVE[0] = 100  # there is room now, and the outcome is to be the same nevertheless
    dltrain.resume(run, quiet=True)
    assert outcome(run) == whole


ROWS = [
    Row(
        "out of memory above k samples, micro_batch: auto",
        "halves the micro-batch and continues, bitwise identical to a run configured this way "
        "from the start",
        full,
        pr=10,
        release=31,
    ),
    Row("out of memory with one sample, or without auto", "one line", too_full, pr=2, release=2),
    Row(
        "out of memory, then resumed",
        "continues with the size found before, bitwise identical",
        remembered,
        pr=3,
        release=3,
    ),
]
