"""`dltrain train` with its default logging and checkpoints."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from bench.workloads import Timer, Workload

CONFIGS = Path(__file__).parents[2] / "configs"

SAME_TRAINING = (
    *("optimizer={name: adamw, lr: 1e-3}", "schedule=constant", "train.clip_norm=null"),
    *("train.ema=null", "train.precision=fp32", "checkpoint.best=null"),
)
IMAGES = ("data.validation=0", "data.augment=null", "data.offline=error")


def train(workload: Workload, timer: Timer) -> float:
    """Train the network and return the test accuracy that dltrain measures at the end."""
    from dltrain.training.threads import wait_briefly

    wait_briefly()  # takes effect only before torch is imported
    from dltrain.cli import cli
    from dltrain.training.trainer import Trainer

    timer.hook_optimizers()
    train_epoch, evaluate = Trainer.train_epoch, Trainer.evaluate

    def timed_epoch(self: Trainer) -> None:
        train_epoch(self)
        timer.end_epoch()

    def untimed_evaluation(self: Trainer, *arguments) -> dict[str, float]:
        with timer.paused():
            return evaluate(self, *arguments)

    Trainer.train_epoch, Trainer.evaluate = timed_epoch, untimed_evaluation
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        cli(
            [
                *("train", str(CONFIGS / f"{workload.config}.yaml"), "--run-dir", str(run)),
                *SAME_TRAINING,
                *(() if workload.config == "sst2_lstm" else IMAGES),
                *(f"train.epochs={workload.epochs}", f"train.batch_size={workload.batch_size}"),
                *(f"train.device={workload.device}", f"data.root={workload.root}"),
            ],
            standalone_mode=False,
        )
        return json.loads((run / "summary.json").read_text())["metrics"]["test/accuracy"]
