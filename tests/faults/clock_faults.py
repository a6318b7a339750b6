"""A clock that is set back or forward between the interruption and the resumption of a run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import small_runs
import yaml
from rows import Row
from run_outcomes import outcome, read_tensorboard_scalars

import dltrain
from dltrain.checkpoints.store import CheckpointStore
from dltrain.core.errors import InterruptedRunError
from dltrain.training.trainer import Trainer

DAY = 86400.0
SHIFTS = [-DAY, 366 * DAY, -366 * DAY, 0.0, -1.0, 3600.0]


def shifted(number: int, folder: Path) -> None:
    """Interrupt a run, move the clock and the modification times of its files, and resume it."""
    small_runs.write_folder(folder)
    config = small_runs.CONFIG | {"recording": {"log_every": 2}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    experiment = dltrain.load(folder / "config.yaml")
    dltrain.train(experiment, run_dir=folder / "whole", quiet=True)
    run, original, real = folder / "run", Trainer.train_step, time.time

    def train_step_then_interrupt(trainer, batch):
        original(trainer, batch)
        if trainer.state.step == 7:
            trainer.stop_signal = 15

    Trainer.train_step = train_step_then_interrupt
    try:
        dltrain.train(experiment, run_dir=run, quiet=True)
    except InterruptedRunError:
        pass
    finally:
        Trainer.train_step = original
    for age, path in enumerate(reversed(CheckpointStore(run / "checkpoints").all())):
        os.utime(path, (real() + 1000 * (-1) ** age, real() - 5000 * age))
    time.time = lambda: real() + SHIFTS[number]
    try:
        dltrain.resume(run, quiet=True)
    finally:
        time.time = real
    assert "resuming from" in (run / "log.txt").read_text()
    assert "step-0000000007" in (run / "log.txt").read_text()
    assert outcome(run) == outcome(folder / "whole")
    # TensorBoard reads the files in the order of their names, so steps must increase across them.
    files = sorted((run / "tensorboard").glob("events*"))
    assert len(files) == 2
    steps = [_steps(path) for path in files]
    assert max(steps[0]) <= min(steps[1])


def _steps(path: Path) -> list[int]:
    alone = path.parent.parent / f"alone-{path.name}" / "tensorboard"
    alone.mkdir(parents=True)
    (alone / path.name).write_bytes(path.read_bytes())
    return [step for _, step, _ in read_tensorboard_scalars(alone.parent)]


ROWS = [
    Row(
        "the clock set back or forward by a second, an hour, a day, a year",
        "the newest checkpoint is found by its step; TensorBoard shows the whole run",
        shifted,
        pr=len(SHIFTS),
        release=len(SHIFTS),
    )
]
