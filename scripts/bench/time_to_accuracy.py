"""Time to 99% test accuracy on MNIST: configs/mnist_fast.yaml and a hand-written loop."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.dataset_files import prepare

SCRIPTS = Path(__file__).parents[1]


def train_dltrain(root: Path, seed: int) -> tuple[float, float]:
    """Return the seconds from the first step to the test result, and the test accuracy."""
    import dltrain

    config = SCRIPTS.parent / "configs" / "mnist_fast.yaml"
    overrides = [f"seed={seed}", f"data.root={root}", "data.offline=error", "train.device=cpu"]
    with tempfile.TemporaryDirectory() as folder:
        experiment = dltrain.load(config, overrides)
        summary = dltrain.train(experiment, run_dir=Path(folder) / "run", quiet=True)
    accuracy = summary.metrics["test/accuracy"]
    assert accuracy is not None
    return summary.seconds, accuracy


def train_handwritten(root: Path, seed: int) -> tuple[float, float]:
    """Train by the same recipe in a plain loop over tensors in memory.

    Returns:
        Seconds of training and test, and the test accuracy.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    from bench.mnist import tensors

    torch.manual_seed(seed)
    (images, labels), (test_images, test_labels) = (tensors(root, train=t) for t in (True, False))
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.1), nn.Linear(800, 10)),
    )
    epochs, batch_size = 2, 128
    steps = epochs * -(-len(labels) // batch_size)
    start = time.perf_counter()
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 8e-3, total_steps=steps, pct_start=0.2, cycle_momentum=False
    )
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.98))
    background = float(images.min())
    pixels = torch.arange(28)
    for _ in range(epochs):
        for index in torch.randperm(len(labels)).split(batch_size):
            padded = F.pad(images[index], (1, 1, 1, 1), value=background)
            top, left = torch.randint(0, 3, (2, len(index), 1))
            rows, columns = (top + pixels)[:, :, None], (left + pixels)[:, None, :]
            cropped = padded[torch.arange(len(index))[:, None, None], 0, rows, columns]
            optimizer.zero_grad()
            F.cross_entropy(model(cropped[:, None]), labels[index]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            ema.update_parameters(model)
    ema.eval()
    with torch.no_grad():
        correct = sum(
            int((ema(inputs).argmax(1) == targets).sum())
            for inputs, targets in zip(
                test_images.split(1000), test_labels.split(1000), strict=True
            )
        )
    return time.perf_counter() - start, correct / len(test_labels)


IMPLEMENTATIONS: dict[str, Callable[[Path, int], tuple[float, float]]] = {
    "dltrain": train_dltrain,
    "hand-written": train_handwritten,
}


def time_to_99(quick: bool) -> dict[str, float]:
    """Measure median seconds and lowest accuracy over seeds, in interleaved processes."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        prepare(Path(os.environ.get("DLTRAIN_DATA", "data")), root, None)
        return _measure(root, quick)


def _measure(root: Path, quick: bool) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in IMPLEMENTATIONS}
    accuracies: dict[str, list[float]] = {name: [] for name in IMPLEMENTATIONS}
    for seed in range(1 if quick else 3):
        for name in IMPLEMENTATIONS:
            command = [sys.executable, "-m", "bench.time_to_accuracy", name, str(root), str(seed)]
            result = subprocess.run(
                command, cwd=SCRIPTS, check=True, stdout=subprocess.PIPE, text=True
            )
            duration, accuracy = json.loads(result.stdout.splitlines()[-1])
            seconds[name].append(duration)
            accuracies[name].append(accuracy)
    ours, theirs = (statistics.median(seconds[name]) for name in ("dltrain", "hand-written"))
    return {
        "mnist_fast: dltrain, s": ours,
        "mnist_fast: hand-written, s": theirs,
        "mnist_fast: dltrain / hand-written": ours / theirs,
        "mnist_fast: dltrain, lowest accuracy": min(accuracies["dltrain"]),
        "mnist_fast: hand-written, lowest accuracy": min(accuracies["hand-written"]),
    }


if __name__ == "__main__":
    print(json.dumps(IMPLEMENTATIONS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))))
