"""What each of several processes does, started by torchrun: trains small experiments.

    torchrun … trials.py OUT

Rank 0 writes what came out to OUT, by the name of the experiment.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

import dltrain
from dltrain.build import build_data, build_machine, build_task, build_trainer
from dltrain.checkpoint import Checkpoints
from dltrain.recording import Recorder
from dltrain.trainer import Trainer
from dltrain.world import World, joined


class Kept(Recorder):
    """Keeps all scalars, less what the clock decides."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def scalars(self, step, epoch, split, values) -> None:
        if split != "system":
            self.values |= {f"{step} {split}/{name}": value for name, value in values.items()}


def trained(experiment: dltrain.Experiment, folder: Path, world: World) -> tuple[Trainer, Kept]:
    """A trainer at its end, and all scalars."""
    machine, kept = build_machine(experiment, world), Kept()
    data = build_data(experiment, machine, print)
    task = build_task(experiment, data.spec, machine)
    checkpoints = Checkpoints(folder)
    trainer = build_trainer(experiment, data, task, machine, checkpoints, [kept])
    trainer.fit()
    return trainer, kept


def outcome(path: Path, world: World, folder: Path) -> dict[str, Any]:
    """Scalars, weights and averaged weights of a config file's experiment."""
    trainer, kept = trained(dltrain.load(path), folder / f"{path.stem}{world.size}", world)
    snapshot = trainer.snapshot()
    return {
        "scalars": kept.values,
        "model": dict(snapshot.model),
        "averaged": dict(snapshot.averaged),
    }


def main(configs: Path, out: Path) -> None:
    with joined(60.0) as world:
        found = {p.stem: outcome(p, world, out.parent) for p in sorted(configs.glob("*.yaml"))}
        if world.main:
            torch.save(found, out)
    os._exit(0)  # as the command line does


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
