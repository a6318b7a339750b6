"""How long it takes to read 99% of MNIST's test digits: configs/mnist_fast.yaml, and by hand."""

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

from bench.inputs import prepare

SCRIPTS = Path(__file__).parents[1]


def seconds_by_dltrain(root: Path, seed: int) -> tuple[float, float]:
    """Seconds from the first step to the test's result, and the accuracy."""
    import dltrain

    config = SCRIPTS.parent / "configs" / "mnist_fast.yaml"
    overrides = [f"seed={seed}", f"data.root={root}", "data.offline=error", "train.device=cpu"]
    with tempfile.TemporaryDirectory() as folder:
        experiment = dltrain.load(config, overrides)
        summary = dltrain.train(experiment, run_dir=Path(folder) / "run", quiet=True)
    accuracy = summary.metrics["test/accuracy"]
    assert accuracy is not None
    return summary.seconds, accuracy


def seconds_by_hand(root: Path, seed: int) -> tuple[float, float]:
    """The same recipe as people write it, over tensors in memory."""
    import torch
    from torch import nn
    from torch.nn import functional as F
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    from bench.pictures import tensors

    torch.manual_seed(seed)
    (images, labels), (test_images, test_labels) = (tensors(root, train=t) for t in (True, False))
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.1), nn.Linear(800, 10)),
    )
    epochs, batch_size = 2, 128
    steps = epochs * -(-len(labels) // batch_size)
    started = time.perf_counter()
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 8e-3, total_steps=steps, pct_start=0.2, cycle_momentum=False
    )
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.98))
    border = float(images.min())
    places = torch.arange(28)
    for _ in range(epochs):
        for index in torch.randperm(len(labels)).split(batch_size):
            padded = F.pad(images[index], (1, 1, 1, 1), value=border)
            down, right = torch.randint(0, 3, (2, len(index), 1))
            rows, columns = (down + places)[:, :, None], (right + places)[:, None, :]
            moved = padded[torch.arange(len(index))[:, None, None], 0, rows, columns]
            optimizer.zero_grad()
            F.cross_entropy(model(moved[:, None]), labels[index]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            averaged.update_parameters(model)
    averaged.eval()
    with torch.no_grad():
        right_ones = sum(
            int((averaged(pictures).argmax(1) == truth).sum())
            for pictures, truth in zip(
                test_images.split(1000), test_labels.split(1000), strict=True
            )
        )
    return time.perf_counter() - started, right_ones / len(test_labels)


WAYS: dict[str, Callable[[Path, int], tuple[float, float]]] = {
    "dltrain": seconds_by_dltrain,
    "by hand": seconds_by_hand,
}


def time_to_99(quick: bool) -> dict[str, float]:
    """Medians over seeds, in processes that take turns, and the worst accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        prepare(Path(os.environ.get("DLTRAIN_DATA", "data")), root, None)
        return _measured(root, quick)


def _measured(root: Path, quick: bool) -> dict[str, float]:
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    accuracies: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in range(1 if quick else 3):
        for way in WAYS:
            command = [sys.executable, "-m", "bench.fast", way, str(root), str(seed)]
            done = subprocess.run(
                command, cwd=SCRIPTS, check=True, stdout=subprocess.PIPE, text=True
            )
            taken, accuracy = json.loads(done.stdout.splitlines()[-1])
            seconds[way].append(taken)
            accuracies[way].append(accuracy)
    ours, theirs = (statistics.median(seconds[way]) for way in ("dltrain", "by hand"))
    return {
        "mnist_fast: dltrain, s": ours,
        "mnist_fast: by hand, s": theirs,
        "mnist_fast: dltrain / by hand": ours / theirs,
        "mnist_fast: dltrain, worst accuracy": min(accuracies["dltrain"]),
        "mnist_fast: by hand, worst accuracy": min(accuracies["by hand"]),
    }


if __name__ == "__main__":
    print(json.dumps(WAYS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))))
