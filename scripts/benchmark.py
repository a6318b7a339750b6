"""Measures dltrain against plain torch, as ratios taken in one run.

    python scripts/benchmark.py                  everything, a few minutes
    python scripts/benchmark.py startup epochs   some of it
    python scripts/benchmark.py --quick          fewer repeats, smaller epochs

startup     `dltrain --help` against `python -c pass` and `python -c "import click"`
first-step  from the command `dltrain train` to the first optimizer step, against `import torch`
epochs      a steady training epoch against a hand-written loop over resident tensors, same network

MNIST must be in DLTRAIN_DATA. Medians of interleaved repeats; prints a
table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CONFIGS = Path(__file__).parent.parent / "configs"

ANNOUNCING_PLUGIN = '''
import os, time
import torch
from torch import nn
from dltrain import OPTIMIZERS

class Announcing(torch.optim.SGD):
    def step(self, closure=None):
        if not os.path.exists(os.environ["ANNOUNCE"]):
            with open(os.environ["ANNOUNCE"], "w") as file:
                file.write(str(time.time()))
        return super().step(closure)

@OPTIMIZERS.register
def announcing(module: nn.Module, /, *, lr: float = 1e-3) -> torch.optim.Optimizer:
    """SGD that writes down when its first step was."""
    return Announcing(module.parameters(), lr=lr)
'''


def interleaved(repeats: int, **measures: Callable[[], float]) -> dict[str, float]:
    """Medians of seconds, the measures taken in turn; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in measures}
    for round_ in range(repeats + 1):
        for name, measure in measures.items():
            seconds = measure()
            if round_:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def process_seconds(*command: str) -> float:
    """Wall-clock time of a whole process."""
    before = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - before


def startup(quick: bool) -> dict[str, float]:
    """`dltrain --help` against what Python and click cost by themselves."""
    python = sys.executable
    medians = interleaved(
        5 if quick else 20,
        python=lambda: process_seconds(python, "-c", "pass"),
        click=lambda: process_seconds(python, "-c", "import click"),
        help=lambda: process_seconds(python, "-m", "dltrain", "--help"),
    )
    return {
        "python -c pass, s": medians["python"],
        "python -c 'import click', s": medians["click"],
        "dltrain --help, s": medians["help"],
        "dltrain --help / import click": medians["help"] / medians["click"],
    }


def first_step(quick: bool) -> dict[str, float]:
    """From the command to the first optimizer step of mnist_cnn, data present."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        plugin = scratch / "announcing.py"
        plugin.write_text(ANNOUNCING_PLUGIN)
        number = 0

        def command() -> float:
            nonlocal number
            number += 1
            announced = scratch / f"announced-{number}"
            before = time.time()
            subprocess.run(
                [
                    *(sys.executable, "-m", "dltrain", "train", str(CONFIGS / "mnist_cnn.yaml")),
                    *("--plugin", str(plugin), "--run-dir", str(scratch / f"run-{number}")),
                    *("optimizer={name: announcing}", "train.steps=1", "train.epochs=null"),
                    *("data.validation=100", "--quiet"),
                ],
                check=True,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "ANNOUNCE": str(announced)},
            )
            return float(announced.read_text()) - before

        medians = interleaved(
            3 if quick else 7,
            torch=lambda: process_seconds(sys.executable, "-c", "import torch"),
            dltrain=command,
        )
    return {
        "import torch, s": medians["torch"],
        "command to first step, s": medians["dltrain"],
        "difference, s": medians["dltrain"] - medians["torch"],
    }


def epochs(quick: bool) -> dict[str, float]:
    """Steady epochs of the shipped MNIST networks, and the loop that one would write by hand.

    Each measurement is a process of its own, for dltrain changes how the process allocates memory;
    the processes take turns.
    """
    figures: dict[str, float] = {}
    for network in NETWORKS:
        times: dict[str, list[float]] = {"by-hand": [], "dltrain": []}
        for _ in range(2 if quick else 4):
            for who in times:
                command = [sys.executable, __file__, "--worker", who, network]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                times[who] += json.loads(output.splitlines()[-1])
        hand, ours = (statistics.median(seconds) for seconds in times.values())
        steps = math.ceil(60_000 / 128)
        figures |= {
            f"{network}: hand-written loop, s/epoch": hand,
            f"{network}: dltrain, s/epoch": ours,
            f"{network}: dltrain / hand-written": ours / hand,
            f"{network}: dltrain, us/step": ours / steps * 1e6,
        }
    return figures


NETWORKS = {"mnist_mlp": 6, "mnist_cnn": 2}
"""Config to counted epochs a process."""

SAME_TRAINING = (
    *("data.augment=null", "data.validation=0", "optimizer={name: adamw, lr: 1e-3}"),
    *("train.epochs=1000", "train.evaluate=1000 epochs", "train.clip_norm=null"),
    *("train.device=cpu", "train.precision=fp32", "checkpoint.best=null"),
)


def dltrain_epochs(network: str) -> list[float]:
    """Seconds of epochs with scalars, TensorBoard and a checkpoint each epoch."""
    import dltrain
    from dltrain.build import build_data, build_machine, build_task, build_trainer
    from dltrain.checkpoint import Checkpoints
    from dltrain.recording import MetricsFile, TensorBoard

    experiment = dltrain.load(CONFIGS / f"{network}.yaml", SAME_TRAINING)
    machine = build_machine(experiment)
    data = build_data(experiment, machine, print)
    task = build_task(experiment, data.spec, machine)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        metrics = MetricsFile(scratch / "metrics.jsonl")
        board = TensorBoard(
            scratch / "tensorboard", "", {}, lambda: next(data.train.batches(1)).inputs
        )
        trainer = build_trainer(
            experiment, data, task, machine, Checkpoints(scratch / "c"), [metrics, board]
        )
        times = timed(trainer.train_epoch, 1 + NETWORKS[network])
        board.close()
        metrics.close()
    return times[1:]


def hand_written_epochs(network: str) -> list[float]:
    """Seconds of epochs of a plain loop over tensors in memory."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from dltrain.data.idx import TRAIN_FILES, read_pair

    pixels, labels = read_pair(Path(os.environ["DLTRAIN_DATA"]) / "MNIST" / "raw", TRAIN_FILES)
    images = pixels.float() / 255
    images = (images - images.mean()) / images.std()
    torch.manual_seed(0)
    layers = {
        "mnist_mlp": (nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)),
        "mnist_cnn": (
            *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Dropout(0.25), nn.Linear(1600, 10)),
        ),
    }
    model = nn.Sequential(*layers[network])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def epoch() -> None:
        for index in torch.randperm(len(labels)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(model(images[index]), labels[index]).backward()
            optimizer.step()

    return timed(epoch, 1 + NETWORKS[network])[1:]


def timed(function: Callable[[], object], times: int) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for _ in range(times):
        before = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - before)
    return seconds


WORKERS = {"dltrain": dltrain_epochs, "by-hand": hand_written_epochs}
MEASURES = {"startup": startup, "first-step": first_step, "epochs": epochs}


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("only", nargs="*", choices=[*MEASURES, []], help="default: all of it")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        who, network = arguments.worker
        print(json.dumps(WORKERS[who](network)))
        return
    figures: dict[str, float] = {}
    for name in arguments.only or MEASURES:
        figures |= MEASURES[name](arguments.quick)
    for key, value in figures.items():
        print(f"{key:44} {value:10.4g}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
