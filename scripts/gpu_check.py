"""Runs every GPU test and GPU benchmark, in under 8 minutes.

    python scripts/gpu_check.py                  writes docs/measurements/DEVICE-DATE.json
    python scripts/gpu_check.py --output X.json

Exits with 1 where there is no GPU, or a test failed or did not run. Times are of MNIST if
DLTRAIN_DATA holds it, else of random pictures of its size; the file says which.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
EPOCHS = 6


def run_tests() -> dict[str, str]:
    """Outcome of each test marked `gpu`: passed, failed or skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(ROOT / "tests" / "gpu")),
                *(f"--junitxml={report}", f"--rootdir={ROOT}"),
            ],
            env={**os.environ, "DLTRAIN_REQUIRE_GPU": "1"},
            check=False,
        )
        outcomes = {}
        for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it just now
            kinds = {child.tag for child in case}
            bad = kinds & {"failure", "error", "skipped"}
            outcomes[str(case.get("name"))] = "/".join(sorted(bad)) or "passed"
    return outcomes


def pictures(folder: Path) -> str:
    """MNIST if its files are there, else random pictures of its size, written to `folder`."""
    import torch

    if (Path(os.environ.get("DLTRAIN_DATA", "data")) / "MNIST").is_dir():
        return "MNIST"
    sys.path.insert(0, str(ROOT / "tests"))
    from small_data import write_idx

    generator = torch.Generator().manual_seed(0)
    for name, count in (("train", 60_000), ("t10k", 10_000)):
        pixels = torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)
        labels = torch.arange(count, dtype=torch.uint8) % 10
        write_idx(folder / "MNIST" / "raw" / f"{name}-images-idx3-ubyte", pixels)
        write_idx(folder / "MNIST" / "raw" / f"{name}-labels-idx1-ubyte", labels)
    os.environ["DLTRAIN_DATA"] = str(folder)
    return "random pictures of MNIST's size"


def seconds_an_epoch(epochs: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Medians over epochs taken in turn; the first is not counted."""
    import torch

    times: dict[str, list[float]] = {name: [] for name in epochs}
    for round_ in range(EPOCHS + 1):
        for name, epoch in epochs.items():
            torch.cuda.synchronize()
            before = time.perf_counter()
            epoch()
            torch.cuda.synchronize()
            if round_:
                times[name].append(time.perf_counter() - before)
    return {name: statistics.median(values) for name, values in times.items()}


def benchmark(network: str) -> dict[str, float]:
    """A steady epoch through dltrain, and of a hand-written loop with the same model and data."""
    import torch
    from torch.nn import functional as F

    import dltrain
    from dltrain.build import build_data, build_machine, build_task, build_trainer
    from dltrain.checkpoint import Checkpoints

    experiment = dltrain.load(
        ROOT / "configs" / f"{network}.yaml",
        [
            *("train.device=cuda", "train.precision=auto", "data.augment=null"),
            *("data.validation=0", "train.epochs=1000", "train.evaluate=1000 epochs"),
            *("checkpoint.best=null", "checkpoint.every=1000 epochs", "train.ema=null"),
            *("train.clip_norm=null", "optimizer={name: adamw, lr: 1e-3}"),
        ],
    )
    machine = build_machine(experiment)
    data = build_data(experiment, machine, print)
    trainer_task, own_task = (build_task(experiment, data.spec, machine) for _ in range(2))
    model = own_task.model
    (optimizer,) = own_task.phases[0].optimizers
    whole = next(data.train.batches(len(data.train)))

    def by_hand() -> None:
        for index in torch.randperm(len(whole), device="cuda").split(128):
            optimizer.zero_grad()
            with machine.numerics.autocast():
                loss = F.cross_entropy(model(whole.inputs[index]), whole.targets[index])
            loss.backward()
            optimizer.step()

    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder))
        trainer = build_trainer(experiment, data, trainer_task, machine, checkpoints)
        medians = seconds_an_epoch({"dltrain": trainer.train_epoch, "by_hand": by_hand})
    return {
        f"{network}, {machine.numerics.name}: dltrain, s/epoch": medians["dltrain"],
        f"{network}, {machine.numerics.name}: hand-written loop, s/epoch": medians["by_hand"],
        f"{network}: dltrain / hand-written": medians["dltrain"] / medians["by_hand"],
        f"{network}: dltrain, steps/s": trainer.steps_per_epoch / medians["dltrain"],
    }


def describe() -> dict[str, Any]:
    """The device and the versions."""
    import torch

    return {
        "device": torch.cuda.get_device_name(),
        "capability": torch.cuda.get_device_capability(),
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
    }


def main() -> int:
    """Runs it all; the exit code."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, help="default: docs/measurements/DEVICE-DATE.json")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch sees no CUDA device: nothing was run", file=sys.stderr)
        return 1
    machine = describe()
    tests = run_tests()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = pictures(Path(folder))
        for network in ("mnist_mlp", "mnist_cnn"):
            figures |= benchmark(network)
    name = re.sub(r"\W+", "-", machine["device"]).lower()
    output = arguments.output or ROOT / "docs" / "measurements" / f"{name}-{machine['date']}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine, "data": source, "figures": figures, "tests": tests}
    output.write_text(json.dumps(result, indent=1) + "\n")
    for key, value in figures.items():
        print(f"{key:52} {value:10.4g}")
    passed = sum(outcome == "passed" for outcome in tests.values())
    print(f"{passed} of {len(tests)} GPU tests passed; written to {output}")
    return 0 if tests and passed == len(tests) else 1


if __name__ == "__main__":
    sys.exit(main())
