"""`dltrain train`, with everything that it does by default."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from bench.work import Clock, Work

CONFIGS = Path(__file__).parents[2] / "configs"

SAME_TRAINING = (
    *("optimizer={name: adamw, lr: 1e-3}", "schedule=constant", "train.clip_norm=null"),
    *("train.ema=null", "train.precision=fp32", "checkpoint.best=null"),
)
PICTURES = ("data.validation=0", "data.augment=null", "data.offline=error")


def train(work: Work, clock: Clock) -> float:
    """Trains; the accuracy on the test split, which dltrain reads by itself at the end."""
    from dltrain.training.threads import wait_briefly

    wait_briefly()  # before torch
    from dltrain.cli import cli
    from dltrain.training.trainer import Trainer

    clock.watch_torch()
    train_epoch, evaluate = Trainer.train_epoch, Trainer.evaluate

    def timed_epoch(self: Trainer) -> None:
        train_epoch(self)
        clock.lap()

    def untimed_evaluation(self: Trainer, *arguments) -> dict[str, float]:
        with clock.stopped():
            return evaluate(self, *arguments)

    Trainer.train_epoch, Trainer.evaluate = timed_epoch, untimed_evaluation
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        cli(
            [
                *("train", str(CONFIGS / f"{work.config}.yaml"), "--run-dir", str(run)),
                *SAME_TRAINING,
                *(() if work.config == "sst2_lstm" else PICTURES),
                *(f"train.epochs={work.epochs}", f"train.batch_size={work.batch_size}"),
                *(f"train.device={work.device}", f"data.root={work.root}"),
            ],
            standalone_mode=False,
        )
        return json.loads((run / "summary.json").read_text())["metrics"]["test/accuracy"]
