"""Latency of the command line: start-up and time to the first optimizer step."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"

FIRST_STEP_PLUGIN = """
import os, time
from torch.optim.optimizer import register_optimizer_step_post_hook

def write_time(*_):
    if not os.path.exists(os.environ["FIRST_STEP_FILE"]):
        with open(os.environ["FIRST_STEP_FILE"], "w") as file:
            file.write(str(time.time()))

register_optimizer_step_post_hook(write_time)
"""
"""Plug-in that writes the time of the first optimizer step to a file."""


def interleaved(repeats: int, **measures: Callable[[], float]) -> dict[str, float]:
    """Return the median seconds of interleaved measurements, without a warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in measures}
    for repeat in range(repeats + 1):
        for name, measure in measures.items():
            seconds = measure()
            if repeat > 0:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def process_seconds(*command: str) -> float:
    """Return the wall-clock seconds that a command takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def startup(quick: bool) -> dict[str, float]:
    """Compare `dltrain --help` with the start-up of Python and the import of click."""
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
    """Measure the time from the command to the first optimizer step of mnist_cnn.

    The data must be present.
    """
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        plugin = scratch / "first_step.py"
        plugin.write_text(FIRST_STEP_PLUGIN)
        number = 0

        def command() -> float:
            nonlocal number
            number += 1
            time_file = scratch / f"first-step-{number}"
            start = time.time()
            subprocess.run(
                [
                    *(sys.executable, "-m", "dltrain", "train", str(CONFIGS / "mnist_cnn.yaml")),
                    *("--plugin", str(plugin), "--run-dir", str(scratch / f"run-{number}")),
                    *("train.steps=1", "train.epochs=null"),
                    *("data.validation=100", "--quiet"),
                ],
                check=True,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "FIRST_STEP_FILE": str(time_file)},
            )
            return float(time_file.read_text()) - start

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
