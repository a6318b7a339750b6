"""Runs every GPU test and GPU benchmark, in under 8 minutes.

    python scripts/gpu_check.py                  writes docs/measurements/DEVICE-DATE.json
    python scripts/gpu_check.py --output X.json

Exits with 1 where there is no GPU, or a test failed, was skipped or could not be run. The
benchmarks train the networks of mnist_mlp and mnist_cnn through dltrain and by a loop over tensors
on the GPU, each with and without a CUDA graph, in the same precision, in turn; and a compiled
ResNet-18 likewise. They use MNIST if DLTRAIN_DATA holds it, and then also measure accuracies, the
time to 99 % and Lightning; else random pictures of its size. The file says which.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = ("mnist_mlp", "mnist_cnn")
TEST_SECONDS = 270
"""Leaves half of the eight minutes for the benchmarks."""


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


def benchmarks(root: Path, real: bool) -> dict[str, float]:
    """All that `bench.gpu` measures; what fails is told, and left out."""
    import torch
    from bench import gpu

    precisions = ("fp32", "bf16") if torch.cuda.get_device_capability() >= (8, 0) else ("fp32",)
    rows: list[Callable[[], dict[str, float]]] = [
        partial(gpu.small_networks, network, precision, root)
        for network in NETWORKS
        for precision in precisions
    ]
    rows.append(gpu.residual_network)
    if real:
        rows += [partial(gpu.accuracies, root), gpu.lightning]
    figures: dict[str, float] = {}
    for row in rows:
        try:
            figures |= row()
        except Exception as error:  # the others are worth having
            traceback.print_exception(error)
            figures[f"{getattr(row, 'func', row).__name__} failed"] = math.nan
    return figures


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
    sys.path[:0] = [
        str(ROOT),
        str(ROOT / "scripts"),
    ]  # what is measured is this checkout, installed or not
    started, machine = time.perf_counter(), describe()
    tests = run_tests()
    with tempfile.TemporaryDirectory() as folder:
        root, source = find_pictures(Path(folder))
        figures = benchmarks(root, source == "MNIST")

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
    failed = any(math.isnan(value) for value in figures.values())
    return 0 if tests and not bad and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
