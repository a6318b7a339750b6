"""Why a training step of mnist_cnn takes as long as it does on a CPU: one change at a time.

    python scripts/cnn_step.py [--rounds N] [--output FILE.json]

Takes the network as people write it (convolution, ReLU, pooling; dropout; a linear layer) on
random pictures, batch 128, and times a whole step, AdamW included, with each of dltrain's changes
alone and with all of them but one. Variants are processes that take turns; each gives its median of
60 steps, and the table the median over the rounds. The arithmetic limit is the step's
multiplications and additions over what these cores reach in a product of 2048 x 2048 matrices.
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

CHANGES = {
    "memory": "glibc keeps large blocks",
    "layout": "channels_last",
    "order": "pooling before ReLU",
    "corner": "no row that pooling leaves out",
    "dropout": "dropout with 16 bits an element",
    "fused": "one kernel for AdamW",
}
TRIED = {
    "pinned": "each thread pinned to a core",
    "denormals": "denormal numbers flushed to zero",
}
"""Which dltrain leaves alone, on top of the changes."""
BATCH = 128


def variants() -> dict[str, list[str]]:
    """Name to changes: none, each alone, the first three, all but each, all."""
    every = list(CHANGES)
    return {
        "as people write it": [],
        **{f"only: {CHANGES[change]}": [change] for change in every},
        "memory, layout and order": every[:3],
        **{f"all but: {CHANGES[c]}": [other for other in every if other != c] for c in every},
        "all of them": every,
        **{f"all of them, and: {TRIED[tried]}": [*every, tried] for tried in TRIED},
    }


def step_milliseconds(changes: list[str]) -> float:
    """Median of 60 steps of a process of its own."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from dltrain.models.layers import Dropout
    from dltrain.training.device import retain_freed_memory

    if "memory" in changes:
        retain_freed_memory()
    torch.set_flush_denormal("denormals" in changes)
    torch.manual_seed(0)

    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        after: list[nn.Module] = [nn.ReLU(), nn.MaxPool2d(2)]
        return [nn.Conv2d(inputs, outputs, 3), *(after[::-1] if "order" in changes else after)]

    dropout = Dropout(0.25) if "dropout" in changes else nn.Dropout(0.25)
    model = nn.Sequential(*stage(1, 32), *stage(32, 64), nn.Flatten(), dropout, nn.Linear(1600, 10))
    size = 26 if "corner" in changes else 28
    images, labels = torch.randn(BATCH, 1, 28, 28), torch.randint(10, (BATCH,))
    if "layout" in changes:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused="fused" in changes)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images[:, :, :size, :size]), labels).backward()
        optimizer.step()

    return 1e3 * statistics.median(timed(step, warm=10, counted=60))


def arithmetic() -> dict[str, float]:
    """The step's floating-point operations, and how many a second the cores reach."""
    import torch

    def gigaflops(size: int) -> float:
        """Of a forward pass at that picture size, counted as torch counts them."""
        from torch import nn
        from torch.utils.flop_counter import FlopCounterMode

        stages = [nn.Conv2d(1, 32, 3), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.MaxPool2d(2)]
        model = nn.Sequential(*stages, nn.Flatten(), nn.Linear(1600, 10))
        with FlopCounterMode(display=False) as counter:
            model(torch.randn(BATCH, 1, size, size)).sum().backward()
        return counter.get_total_flops() / 1e9

    one, other = torch.randn(2048, 2048), torch.randn(2048, 2048)
    seconds = min(timed(lambda: one @ other, warm=3, counted=30))
    return {
        "as people write it, GFLOP": gigaflops(28),
        "without left-out rows, GFLOP": gigaflops(26),
        "matrix product, GFLOP/s": 2 * 2048**3 / seconds / 1e9,
    }


def timed(function: Callable[[], object], *, warm: int, counted: int) -> list[float]:
    """Seconds of each counted call."""
    seconds = []
    for number in range(warm + counted):
        before = time.perf_counter()
        function()
        if number >= warm:
            seconds.append(time.perf_counter() - before)
    return seconds


def worker(*words: str) -> dict[str, float]:
    """What this script gives in a process of its own."""
    command = [sys.executable, __file__, "--worker", *words]
    pinned = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"} if "pinned" in words else {}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **pinned}
    )
    output = done.stdout
    return json.loads(output)


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        measure = arithmetic if arguments.worker == ["arithmetic"] else None
        print(json.dumps(measure() if measure else {"ms": step_milliseconds(arguments.worker)}))
        return
    taken: dict[str, list[float]] = {name: [] for name in variants()}
    for _ in range(arguments.rounds):
        for name, changes in variants().items():
            taken[name].append(worker(*changes)["ms"])
    medians = {name: statistics.median(values) for name, values in taken.items()}
    counted = worker("arithmetic")
    base = medians["as people write it"]
    print("| step of batch 128 | ms | of the first |\n| --- | --- | --- |")
    for name, value in medians.items():
        print(f"| {name} | {value:.1f} | {value / base:.2f} |")
    limit = 1e3 * counted["without left-out rows, GFLOP"] / counted["matrix product, GFLOP/s"]
    for name, value in counted.items():
        print(f"{name}: {value:.3g}")
    print(f"arithmetic limit: {limit:.1f} ms, {limit / medians['all of them']:.0%} of the step")
    if arguments.output:
        result = {"when": time.strftime("%Y-%m-%d"), "milliseconds": medians, **counted}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
