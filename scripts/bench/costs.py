"""What recording and saving take of an epoch, at the default settings."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"


def costs(quick: bool) -> dict[str, float]:
    """Shares of a steady training epoch, with scalars, TensorBoard and a checkpoint an epoch.

    `recording` is all that follows a step: the progress bar, scalars each 50 steps, and what the
    loop waits for at a checkpoint; `saving` is the last of these alone. The thread that writes
    checkpoints works beside the loop; it is in `all of it`, an epoch against one without any.
    """
    figures = {}
    for network in ("mnist_mlp", "mnist_cnn"):
        figures |= _of(network, epochs=2 if quick else 6)
    return figures


def _of(network: str, epochs: int) -> dict[str, float]:
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
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        log = (folder / "log.txt").open("w")
        loggers: list[Logger] = [
            Progress(log, quiet=True),
            MetricsFile(folder / "metrics.jsonl"),
            TensorBoard(folder / "tensorboard", "", {}, lambda: next(data.train.batches(1))),
        ]

        def trainer(recorded: bool) -> Trainer:
            task = build_task(experiment, data.spec, runtime)
            checkpoints = CheckpointStore(folder / "checkpoints")
            made = build_trainer(
                experiment, data, task, runtime, checkpoints, loggers if recorded else []
            )
            if not recorded:
                made.log_every = made.save_every = 10**9
            return made

        whole, bare = trainer(True), trainer(False)
        spent = {"recording": 0.0, "saving": 0.0}
        _timed(whole, "_after_step", spent, "recording")
        _timed(whole, "save", spent, "saving")
        seconds: dict[str, list[float]] = {"whole": [], "bare": []}
        for epoch in range(epochs + 1):
            if epoch == 1:
                spent.update(recording=0.0, saving=0.0)
            for name, one in (("whole", whole), ("bare", bare)):
                before = time.perf_counter()
                one.train_epoch()
                if epoch:
                    seconds[name].append(time.perf_counter() - before)
        whole.checkpoint_manager.wait()
        for logger in loggers:
            logger.close()
        log.close()
    total = sum(seconds["whole"])
    return {
        f"{network}: recording / epoch": spent["recording"] / total,
        f"{network}: saving / epoch": spent["saving"] / total,
        f"{network}: recording, us/step": spent["recording"]
        / (epochs * whole.steps_per_epoch)
        * 1e6,
        f"{network}: all of it, epoch / epoch without": statistics.median(seconds["whole"])
        / statistics.median(seconds["bare"]),
    }


def _timed(trainer, name: str, spent: dict[str, float], key: str) -> None:
    """Adds the seconds of a method's calls to a sum."""
    method = getattr(trainer, name)

    def timed() -> None:
        before = time.perf_counter()
        method()
        spent[key] += time.perf_counter() - before

    setattr(trainer, name, timed)
