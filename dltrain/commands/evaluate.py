"""Metrics of a trained model on a split."""

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
    """What came out.

    Attributes:
        checkpoint: Where the weights came from.
        split: Which samples.
        samples: How many.
        metrics: Loss and metrics.
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
    """Loss and metrics of a run's model over a split, without augmentation.

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
