"""Evaluate a trained model on a split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from dltrain.build import build_data, load_trained
from dltrain.core.errors import UsageError, print_warning
from dltrain.rundir.directory import Run
from dltrain.rundir.provenance import fingerprint

SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        checkpoint: Path of the checkpoint.
        split: Name of the split.
        samples: Number of samples.
        metrics: Loss and metrics by name.
    """

    checkpoint: str
    split: SplitName
    samples: int
    metrics: dict[str, float]


def evaluate(
    run_dir: str | Path,
    *,
    split: SplitName = "test",
    checkpoint: str | None = None,
    device: str | None = None,
) -> Evaluation:
    """Compute loss and metrics of a run's model over a split, without augmentation.

    Args:
        run_dir: Directory of the run.
        split: Name of the split.
        checkpoint: Name of a checkpoint; see `load_trained`.
        device: Device to use instead of the config's.

    Raises:
        RunError: There is no such checkpoint.
        UsageError: The data has no such split.
    """
    trained = load_trained(run_dir, checkpoint, device)
    record = Run.open(run_dir).record()
    data = build_data(
        trained.experiment,
        trained.runtime,
        print_warning,
        record["data_folder"],
    )
    samples = {"train": data.train, "val": data.validation, "test": data.test}[split]
    if samples is None:
        raise UsageError(f"the data of {run_dir} has no {split!r} split")
    before = record["data"]
    if before["fingerprint"] != fingerprint(data):
        message = f"note: {data.source} is not the data that the run was trained on"
        print_warning(f"{message}, which came from {before['source']}")
    batches = samples.batches(trained.experiment.train.samples_at_once)
    with torch.inference_mode(), trained.runtime.precision.autocast():
        metrics = trained.task.evaluate(batches)
    return Evaluation(str(trained.checkpoint), split, len(samples), metrics)
