"""Ablation of the optimizations in a training step of mnist_cnn on a CPU.

    python scripts/cnn_step.py [--rounds N] [--output FILE.json]

The script times a training step, including AdamW, on random images with batches of 128: the usual
implementation (convolution, ReLU, pooling; dropout; linear layer), each of dltrain's optimizations
alone, all of them, and all but one. Each variant runs in a separate process, the processes are
interleaved, and each reports the median of 60 steps; the table shows the median over the rounds.
The arithmetic limit is the number of floating-point operations of a step, divided by the throughput
of these cores in a product of 2048 x 2048 matrices.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

OPTIMIZATIONS = {
    "memory": "glibc retains freed memory",
    "layout": "channels_last",
    "order": "pooling before ReLU",
    "crop": "no rows that pooling discards",
    "dropout": "dropout with 16 random bits per element",
    "fused": "fused AdamW",
}
"""Optimizations that dltrain uses."""

UNUSED = {
    "pinned": "each thread pinned to a core",
    "denormals": "denormal numbers flushed to zero",
}
"""Optimizations that dltrain does not use, measured in addition to the others."""

BATCH_SIZE = 128


def variants() -> dict[str, list[str]]:
    """Map the title of each variant to its optimizations."""
    every = list(OPTIMIZATIONS)
    return {
        "usual implementation": [],
        **{f"only: {OPTIMIZATIONS[one]}": [one] for one in every},
        "memory, layout and order": every[:3],
        **{f"all but: {OPTIMIZATIONS[o]}": [other for other in every if other != o] for o in every},
        "all of them": every,
        **{f"all of them, and: {UNUSED[extra]}": [*every, extra] for extra in UNUSED},
    }


def step_milliseconds(optimizations: list[str]) -> float:
    """Return the median duration of 60 steps in this process."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from dltrain.models.layers import Dropout
    from dltrain.training.device import retain_freed_memory

    if "memory" in optimizations:
        retain_freed_memory()
    torch.set_flush_denormal("denormals" in optimizations)
    torch.manual_seed(0)

    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        layers: list[nn.Module] = [nn.ReLU(), nn.MaxPool2d(2)]
        if "order" in optimizations:
            layers.reverse()
        return [nn.Conv2d(inputs, outputs, 3), *layers]

    dropout = Dropout(0.25) if "dropout" in optimizations else nn.Dropout(0.25)
    model = nn.Sequential(*stage(1, 32), *stage(32, 64), nn.Flatten(), dropout, nn.Linear(1600, 10))
    size = 26 if "crop" in optimizations else 28
    images, labels = torch.randn(BATCH_SIZE, 1, 28, 28), torch.randint(10, (BATCH_SIZE,))
    if "layout" in optimizations:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused="fused" in optimizations)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images[:, :, :size, :size]), labels).backward()
        optimizer.step()

    return 1e3 * statistics.median(time_calls(step, warm_up=10, repeats=60))


def arithmetic() -> dict[str, float]:
    """Return the GFLOP of a step, and the GFLOP/s that the cores reach in a matrix product."""
    import torch

    def gigaflops(size: int) -> float:
        """Count the GFLOP of a forward and backward pass on images of size x size pixels."""
        from torch import nn
        from torch.utils.flop_counter import FlopCounterMode

        stages = [nn.Conv2d(1, 32, 3), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.MaxPool2d(2)]
        model = nn.Sequential(*stages, nn.Flatten(), nn.Linear(1600, 10))
        with FlopCounterMode(display=False) as counter:
            model(torch.randn(BATCH_SIZE, 1, size, size)).sum().backward()
        return counter.get_total_flops() / 1e9

    left, right = torch.randn(2048, 2048), torch.randn(2048, 2048)
    seconds = min(time_calls(lambda: left @ right, warm_up=3, repeats=30))
    return {
        "usual implementation, GFLOP": gigaflops(28),
        "without discarded rows, GFLOP": gigaflops(26),
        "matrix product, GFLOP/s": 2 * 2048**3 / seconds / 1e9,
    }


def time_calls(function: Callable[[], object], *, warm_up: int, repeats: int) -> list[float]:
    """Return the seconds of each call after the warm-up."""
    seconds = []
    for number in range(warm_up + repeats):
        start = time.perf_counter()
        function()
        if number >= warm_up:
            seconds.append(time.perf_counter() - start)
    return seconds


def run_worker(*words: str) -> dict[str, float]:
    """Run this script with `--worker` in a separate process and return its result."""
    command = [sys.executable, __file__, "--worker", *words]
    pinned = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"} if "pinned" in words else {}
    result = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **pinned}
    )
    return json.loads(result.stdout)


def main() -> None:
    """Measure every variant and print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="processes per variant (default: 5)")
    parser.add_argument("--output", type=Path, help="JSON file for the figures (default: none)")
    parser.add_argument("--worker", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        measure = arithmetic if arguments.worker == ["arithmetic"] else None
        print(json.dumps(measure() if measure else {"ms": step_milliseconds(arguments.worker)}))
        return
    milliseconds: dict[str, list[float]] = {name: [] for name in variants()}
    for _ in range(arguments.rounds):
        for name, optimizations in variants().items():
            milliseconds[name].append(run_worker(*optimizations)["ms"])
    medians = {name: statistics.median(values) for name, values in milliseconds.items()}
    counts = run_worker("arithmetic")
    base = medians["usual implementation"]
    print("| step with a batch of 128 | ms | relative |\n| --- | --- | --- |")
    for name, value in medians.items():
        print(f"| {name} | {value:.1f} | {value / base:.2f} |")
    limit = 1e3 * counts["without discarded rows, GFLOP"] / counts["matrix product, GFLOP/s"]
    for name, value in counts.items():
        print(f"{name}: {value:.3g}")
    print(f"arithmetic limit: {limit:.1f} ms, {limit / medians['all of them']:.0%} of the step")
    if arguments.output:
        result = {"date": time.strftime("%Y-%m-%d"), "milliseconds": medians, **counts}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
