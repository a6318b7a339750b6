"""How long the command line takes to answer, and to begin."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.costs import costs
from bench.fast import time_to_99
from bench.streamed import streamed

CONFIGS = Path(__file__).parents[2] / "configs"

ANNOUNCING_PLUGIN = """
import os, time
from torch.optim.optimizer import register_optimizer_step_post_hook

def announce(*_):
    if not os.path.exists(os.environ["ANNOUNCE"]):
        with open(os.environ["ANNOUNCE"], "w") as file:
            file.write(str(time.time()))

register_optimizer_step_post_hook(announce)
"""


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
                    *("train.steps=1", "train.epochs=null"),
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


MEASURES = {
    "startup": startup,
    "first-step": first_step,
    "to-99": time_to_99,
    "pictures": streamed,
    "costs": costs,
}
