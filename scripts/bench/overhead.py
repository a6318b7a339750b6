"""Overhead of logging and checkpoints at the default settings."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"


def overhead(quick: bool) -> dict[str, float]:
    """Measure logging and checkpoints as fractions of a training epoch.

    Each epoch has scalars, TensorBoard and one checkpoint. `logging` is everything after a step:
    the progress bar, scalars every 50 steps, and the time that the loop waits for a checkpoint;
    `checkpoint` is the last of these alone. The background thread that writes checkpoints is
    included only in the ratio of whole epochs.
    """
    figures = {}
    for network in ("mnist_mlp", "mnist_cnn"):
        figures |= _measure(network, epochs=2 if quick else 6)
    return figures


def _measure(network: str, epochs: int) -> dict[str, float]:
    import dltrain
    from dltrain.build import build_data, build_runtime, build_task, build_trainer
    from dltrain.checkpoints.store import CheckpointStore
    from dltrain.loggers import Logger, MetricsFile, Progress, TensorBoard
    from dltrain.training.trainer import Trainer

    root = os.environ.get("DLTRAIN_DATA", "data")
    overrides = ["train.device=cpu", "train.evaluate=1000 epochs", "train.epochs=1000"]
    overrides += [f"data.root={root}", "data.offline=error", "checkpoint.best=null"]
    experiment = dltrain.load(CONFIGS / f"{network}.yaml", overrides)
    runtime = build_runtime(experiment)
    data = build_data(experiment, runtime, print)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        log = (folder / "log.txt").open("w")
        loggers: list[Logger] = [
            Progress(log, quiet=True),
            MetricsFile(folder / "metrics.jsonl"),
            TensorBoard(folder / "tensorboard", "", {}, lambda: next(data.train.batches(1))),
        ]

        def make_trainer(*, is_logged: bool) -> Trainer:
            task = build_task(experiment, data.spec, runtime)
            checkpoints = CheckpointStore(folder / "checkpoints")
            trainer = build_trainer(
                experiment, data, task, runtime, checkpoints, loggers if is_logged else []
            )
            if not is_logged:
                trainer.log_every = trainer.save_every = 10**9
            return trainer

        logged, bare = make_trainer(is_logged=True), make_trainer(is_logged=False)
        spent = {"logging": 0.0, "checkpoint": 0.0}
        _time_method(logged, "_after_step", spent, "logging")
        _time_method(logged, "save", spent, "checkpoint")
        seconds: dict[str, list[float]] = {"logged": [], "bare": []}
        for epoch in range(epochs + 1):
            if epoch == 1:  # the first one warms up
                spent.update(logging=0.0, checkpoint=0.0)
            for name, trainer in (("logged", logged), ("bare", bare)):
                start = time.perf_counter()
                trainer.train_epoch()
                if epoch > 0:
                    seconds[name].append(time.perf_counter() - start)
        logged.checkpoint_manager.wait()
        for logger in loggers:
            logger.close()
        log.close()
    total = sum(seconds["logged"])
    steps = epochs * logged.steps_per_epoch
    ratio = statistics.median(seconds["logged"]) / statistics.median(seconds["bare"])
    return {
        f"{network}: logging / epoch": spent["logging"] / total,
        f"{network}: checkpoint / epoch": spent["checkpoint"] / total,
        f"{network}: logging, us/step": spent["logging"] / steps * 1e6,
        f"{network}: epoch with / without logging": ratio,
    }


def _time_method(trainer, name: str, spent: dict[str, float], key: str) -> None:
    """Wrap a method so that the seconds of its calls are added to `spent[key]`."""
    method = getattr(trainer, name)

    def timed() -> None:
        start = time.perf_counter()
        method()
        spent[key] += time.perf_counter() - start

    setattr(trainer, name, timed)
