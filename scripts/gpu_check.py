"""Runs every GPU test and GPU benchmark, in under 8 minutes.

    python scripts/gpu_check.py                  writes docs/measurements/DEVICE-DATE.json
    python scripts/gpu_check.py --output X.json

Exits with 1 where there is no GPU, or a test failed, was skipped or could not be run. The
benchmarks train the networks of mnist_mlp and mnist_cnn through dltrain and by a loop over tensors
on the GPU, in the same precision, in turn; on MNIST if DLTRAIN_DATA holds it, else on random
pictures of its size. The file says which.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = ("mnist_mlp", "mnist_cnn")
EPOCHS = 6
TEST_SECONDS = 330
"""Leaves two minutes of the eight for the benchmarks, which take about one on an H100."""


def run_tests() -> dict[str, dict[str, Any]]:
    """Outcome and seconds of each test marked `gpu`; empty where pytest gave no report in time."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu"]
        try:
            subprocess.run(
                [*command, f"--junitxml={report}"],
                cwd=ROOT,
                env={**os.environ, "DLTRAIN_REQUIRE_GPU": "1"},
                timeout=TEST_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            print(f"the tests were ended after {TEST_SECONDS} s", file=sys.stderr)
        return outcomes(report) if report.exists() else {}


def outcomes(report: Path) -> dict[str, dict[str, Any]]:
    """What a JUnit report says of each test: passed, failure, error or skipped, and seconds."""
    results = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it just now
        bad = {child.tag for child in case} & {"failure", "error", "skipped"}
        results[f"{case.get('classname')}.{case.get('name')}"] = {
            "outcome": "/".join(sorted(bad)) or "passed",
            "seconds": float(case.get("time", "nan")),
        }
    return results


def find_pictures(scratch: Path) -> tuple[Path, str]:
    """A root that holds MNIST, or random pictures of its size, written to `scratch`; and which."""
    import torch

    from dltrain.data.idx import TEST_FILES, TRAIN_FILES, missing

    root = Path(os.environ.get("DLTRAIN_DATA", ROOT / "data"))
    if not missing(root / "MNIST" / "raw", TRAIN_FILES + TEST_FILES):
        return root, "MNIST"
    sys.path.insert(0, str(ROOT / "tests"))
    from small_data import write_idx

    generator = torch.Generator().manual_seed(0)
    for names, count in ((TRAIN_FILES, 60_000), (TEST_FILES, 10_000)):
        pixels = torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)
        labels = (torch.arange(count) % 10).to(torch.uint8)
        for name, values in zip(names, (pixels, labels), strict=True):
            write_idx(scratch / "MNIST" / "raw" / name, values)
    return scratch, "random pictures of MNIST's size"


def benchmark(network: str, precision: str, root: Path) -> dict[str, float]:
    """A steady epoch through dltrain, and of a hand-written loop with the same model and data."""
    import torch
    from torch.nn import functional as F

    import dltrain
    from dltrain.build import build_data, build_machine, build_task, build_trainer
    from dltrain.checkpoint import Checkpoints

    experiment = dltrain.load(
        ROOT / "configs" / f"{network}.yaml",
        [
            *(f"train.precision={precision}", "train.device=cuda", "train.clip_norm=null"),
            *("train.ema=null", "train.epochs=1000", "train.evaluate=1000 epochs"),
            *(f"data.root={root}", "data.validation=0", "data.augment=null", "data.offline=error"),
            *("checkpoint.best=null", "checkpoint.every=1000 epochs"),
            "optimizer={name: adamw, lr: 1e-3}",
        ],
    )
    machine = build_machine(experiment)
    data = build_data(experiment, machine, print)
    trainer_task, own_task = (build_task(experiment, data.spec, machine) for _ in range(2))
    model, size = own_task.model.train(), experiment.train.batch_size
    (optimizer,) = own_task.phases[0].optimizers
    whole = next(data.train.batches(len(data.train)))
    assert whole.inputs.is_cuda

    def by_hand() -> None:
        for index in torch.randperm(len(whole), device="cuda").split(size):
            with machine.numerics.autocast():
                loss = F.cross_entropy(model(whole.inputs[index]), whole.targets[index])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder))
        trainer = build_trainer(experiment, data, trainer_task, machine, checkpoints)
        ours, theirs = seconds_an_epoch(trainer.train_epoch, by_hand)
    name = f"{network}, {precision}"
    return {
        f"{name}: dltrain, s/epoch": ours,
        f"{name}: hand-written loop, s/epoch": theirs,
        f"{name}: dltrain, steps/s": trainer.steps_per_epoch / ours,
        f"{name}: hand-written loop, steps/s": trainer.steps_per_epoch / theirs,
        f"{name}: dltrain / hand-written": ours / theirs,
    }


def seconds_an_epoch(*epochs: Callable[[], None]) -> list[float]:
    """Medians over epochs taken in turn; the first round is not counted."""
    import torch

    times: list[list[float]] = [[] for _ in epochs]
    for round_ in range(EPOCHS + 1):
        for epoch, seconds in zip(epochs, times, strict=True):
            torch.cuda.synchronize()
            before = time.perf_counter()
            epoch()
            torch.cuda.synchronize()
            if round_:
                seconds.append(time.perf_counter() - before)
    return [statistics.median(seconds) for seconds in times]


def describe() -> dict[str, Any]:
    """The device and the versions."""
    import torch

    import dltrain

    return {
        "device": torch.cuda.get_device_name(),
        "capability": torch.cuda.get_device_capability(),
        "driver": driver_version(),
        "date": time.strftime("%Y-%m-%d"),
        "dltrain": dltrain.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "python": sys.version.split()[0],
    }


def driver_version() -> str | None:
    """As nvidia-smi says it; None where there is no such program or it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.splitlines()[0].strip() if answer.returncode == 0 else None


def main() -> int:
    """Runs it all; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, help="default: docs/measurements/DEVICE-DATE.json")
    arguments = parser.parse_args()

    import torch

    if not torch.cuda.is_available():
        print("torch sees no CUDA device: nothing was run", file=sys.stderr)
        return 1
    sys.path.insert(0, str(ROOT))  # what is measured is this checkout, installed or not
    started, machine = time.perf_counter(), describe()
    tests = run_tests()
    figures: dict[str, float] = {}
    precisions = ("fp32", "bf16") if torch.cuda.get_device_capability() >= (8, 0) else ("fp32",)
    with tempfile.TemporaryDirectory() as folder:
        root, source = find_pictures(Path(folder))
        for network in NETWORKS:
            for precision in precisions:
                figures |= benchmark(network, precision, root)

    name = re.sub(r"\W+", "-", machine["device"]).lower()
    output = arguments.output or ROOT / "docs" / "measurements" / f"{name}-{machine['date']}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "machine": machine,
        "seconds": round(time.perf_counter() - started),
        "data": source,
        "figures": figures,
        "tests": tests,
    }
    output.write_text(json.dumps(result, indent=1) + "\n")

    print(f"{machine['device']}, torch {machine['torch']}, {source}")
    for key, value in figures.items():
        print(f"{key:46} {value:10.4g}")
    bad = {name: test["outcome"] for name, test in tests.items() if test["outcome"] != "passed"}
    for name, outcome in bad.items():
        print(f"{outcome}: {name}")
    print(f"{len(tests) - len(bad)} of {len(tests)} GPU tests passed; written to {output}")
    return 0 if tests and not bad else 1


if __name__ == "__main__":
    sys.exit(main())
