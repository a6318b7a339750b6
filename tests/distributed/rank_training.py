"""Function of each rank that trains small experiments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

import dltrain
from dltrain.build import build_data, build_runtime, build_task, build_trainer
from dltrain.checkpoints.loading import load_checkpoint
from dltrain.checkpoints.snapshot import read_on_main
from dltrain.checkpoints.store import CheckpointStore
from dltrain.config.plugins import load_plugin
from dltrain.distributed.process_group import ProcessGroup, join_process_group
from dltrain.loggers import Logger
from dltrain.training.trainer import Trainer


class ScalarCollector(Logger):
    """Collect all scalars, except those that depend on time."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def position(self):
        return self.values

    def restore(self, position) -> None:
        self.values = dict(position)

    def log_scalars(self, step, epoch, split, values) -> None:
        if split != "system":
            self.values |= {f"{step} {split}/{name}": value for name, value in values.items()}


def trained(
    experiment: dltrain.Experiment,
    folder: Path,
    process_group: ProcessGroup,
    checkpoint: Path | None,
) -> tuple[Trainer, ScalarCollector]:
    """Train to the end, from the start or a checkpoint; return the trainer and all scalars."""
    runtime, collector = build_runtime(experiment, process_group), ScalarCollector()
    data = build_data(experiment, runtime, print)
    task = build_task(experiment, data.spec, runtime)
    folder.mkdir(exist_ok=True)
    checkpoints = CheckpointStore(folder, keep=10)
    trainer = build_trainer(experiment, data, task, runtime, checkpoints, [collector])
    if checkpoint is not None:
        trainer.restore(read_on_main(process_group, lambda: load_checkpoint(checkpoint)))
    trainer.fit()
    return trainer, collector


def outcome(
    path: Path, process_group: ProcessGroup, folder: Path, checkpoint: Path | None = None
) -> dict[str, Any]:
    """Train the experiment of a config file; return scalars, weights and EMA weights."""
    trainer, collector = trained(dltrain.load(path), folder, process_group, checkpoint)
    snapshot = trainer.snapshot()
    return {
        "scalars": collector.values,
        "model": dict(snapshot.model),
        "averaged": dict(snapshot.averaged),
    }


def main(configs: Path, out: Path) -> None:
    """Train all experiments; rank 0 writes the outcomes to a file, by name."""
    folder = out.parent
    load_plugin(Path(__file__).parent / "partial_plugin.py")
    with join_process_group(300.0) as process_group:
        found = {}
        for path in sorted(configs.glob("*.yaml")):
            own = folder / f"{path.stem}{process_group.world_size}"
            found[path.stem] = outcome(path, process_group, own)
            other = folder / f"{path.stem}1" / "step-0000000003"
            if process_group.world_size > 1 and other.exists():
                own = folder / f"{path.stem}{process_group.world_size} from 1"
                found[f"{path.stem} from 1"] = outcome(path, process_group, own, other)
        if process_group.is_main:
            torch.save(found, out)
    os._exit(0)  # as the command line exits
