"""What each of several processes does: trains small experiments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

import dltrain
from dltrain.build import build_data, build_machine, build_task, build_trainer
from dltrain.checkpoints.store import Checkpoints, load, read_by_main
from dltrain.config.plugins import load_plugin
from dltrain.distributed.process_group import World, joined
from dltrain.loggers import Recorder
from dltrain.training.trainer import Trainer


class Kept(Recorder):
    """Keeps all scalars, less what the clock decides."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def position(self):
        return self.values

    def restore(self, position) -> None:
        self.values = dict(position)

    def scalars(self, step, epoch, split, values) -> None:
        if split != "system":
            self.values |= {f"{step} {split}/{name}": value for name, value in values.items()}


def trained(
    experiment: dltrain.Experiment, folder: Path, world: World, going_on_from: Path | None
) -> tuple[Trainer, Kept]:
    """A trainer at its end, and all scalars since its start or a checkpoint."""
    machine, kept = build_machine(experiment, world), Kept()
    data = build_data(experiment, machine, print)
    task = build_task(experiment, data.spec, machine)
    folder.mkdir(exist_ok=True)
    checkpoints = Checkpoints(folder, keep=10)
    trainer = build_trainer(experiment, data, task, machine, checkpoints, [kept])
    if going_on_from is not None:
        trainer.restore(read_by_main(world, lambda: load(going_on_from)))
    trainer.fit()
    return trainer, kept


def outcome(
    path: Path, world: World, folder: Path, going_on_from: Path | None = None
) -> dict[str, Any]:
    """Scalars, weights and averaged weights of a config file's experiment."""
    trainer, kept = trained(dltrain.load(path), folder, world, going_on_from)
    snapshot = trainer.snapshot()
    return {
        "scalars": kept.values,
        "model": dict(snapshot.model),
        "averaged": dict(snapshot.averaged),
    }


def main(configs: Path, out: Path) -> None:
    """Train all; rank 0 writes what came out to a file, by the name of the experiment."""
    folder = out.parent
    load_plugin(Path(__file__).parent / "partial_plugin.py")
    with joined(300.0) as world:
        found = {}
        for path in sorted(configs.glob("*.yaml")):
            own = folder / f"{path.stem}{world.size}"
            found[path.stem] = outcome(path, world, own)
            other = folder / f"{path.stem}1" / "step-0000000003"
            if world.size > 1 and other.exists():
                own = folder / f"{path.stem}{world.size} from 1"
                found[f"{path.stem} from 1"] = outcome(path, world, own, other)
        if world.main:
            torch.save(found, out)
    os._exit(0)  # as the command line does
