"""Compare dltrain with other frameworks on the same networks and data.

    python scripts/benchmark.py                             everything, about 45 minutes
    python scripts/benchmark.py --quick                     one repeat, two epochs, a few minutes
    python scripts/benchmark.py --only mnist_mlp dltrain handwritten keras
    python scripts/benchmark.py --only startup first-step   only the command line
    python scripts/benchmark.py --only to-99                time to 99% test accuracy on MNIST

Each measurement runs in a separate process, and the competitors are interleaved: dltrain like
`dltrain train`, with scalars, TensorBoard and a checkpoint each epoch; `handwritten`, a loop over
tensors in memory; `tutorial`, the loop of most tutorials; and frameworks, with tensors and with the
tutorial's data, without progress bars, logs and checkpoints, which favors them. Frameworks that are
not installed are skipped; to install them: pip install 'dltrain[bench]'.

MNIST and SST-2 must be in DLTRAIN_DATA. The table is printed. A full run also writes it to
docs/performance.md, and the figures to docs/measurements/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.cli_latency import first_step, startup
from bench.dataset_files import prepare
from bench.overhead import overhead
from bench.report import describe_conditions, row, table, update_page, with_ratios
from bench.streaming import image_throughput
from bench.time_to_accuracy import time_to_99
from bench.workloads import COMPETITORS, NETWORKS, Timer, Workload

from dltrain._version import __version__

DOCS = Path(__file__).parent.parent / "docs"

MEASURES = {
    "startup": startup,
    "first-step": first_step,
    "to-99": time_to_99,
    "images": image_throughput,
    "overhead": overhead,
}
"""Measurements of dltrain outside the comparison, by their name in `--only`."""


def main() -> None:
    """Run the selected measurements, then print and write their results."""
    arguments = parse_arguments()
    if arguments.worker:
        run_worker(json.loads(arguments.worker))
        return
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "repeats": 1 if arguments.quick else arguments.repeats,
        "samples": arguments.samples,
    }
    selected = arguments.only or [*MEASURES, *NETWORKS]
    commands = {name: MEASURES[name](arguments.quick) for name in MEASURES if name in selected}
    for figures in commands.values():
        for key, value in figures.items():
            print(f"{key:44} {value:10.4g}")
    if set(selected) - set(MEASURES):
        result |= compare(arguments, result["repeats"])
        print(f"\n{table(result['rows'])}")
    result["commands"] = commands
    is_full_run = not (arguments.only or arguments.quick or arguments.samples)
    output = arguments.output
    if is_full_run:
        output = (
            output or DOCS / "measurements" / f"benchmark-{arguments.device}-{result['date']}.json"
        )
        text = f"{describe_conditions(result)}\n\n{table(result['rows'])}"
        update_page(DOCS / "performance.md", text)
    if output:
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if any("error" in one for one in result.get("rows", [])):
        sys.exit(1)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    families = {name.partition("-")[0] for name in COMPETITORS} - set(COMPETITORS)
    names = [*MEASURES, *NETWORKS, *COMPETITORS, *sorted(families)]
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        metavar="NAME",
        help=f"measurements, networks and competitors to run (default: all): {', '.join(names)}",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        choices=("cpu", "cuda"),
        help="device of the training (default: cpu)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="run one repeat of two epochs (default: full length)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="processes per measurement (default: 3)"
    )
    parser.add_argument(
        "--samples", type=int, help="maximum number of samples per split (default: all)"
    )
    parser.add_argument(
        "--output", type=Path, help="JSON file for the figures (default: only in a full run)"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(arguments: argparse.Namespace, repeats: int) -> dict[str, Any]:
    """Train the selected pairs and return the device and the rows of the table."""
    pairs = select_pairs(arguments.only or ())
    results: dict[tuple[str, str], list[dict]] = {pair: [] for pair in pairs}
    device = None
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        samples = prepare(Path(os.environ.get("DLTRAIN_DATA", "data")), root, arguments.samples)
        for number in range(1, repeats + 1):
            for (network, competitor), measurements in results.items():
                if any("error" in one for one in measurements):
                    continue
                one = measure(network, competitor, arguments, root)
                device = one.pop("device", device)
                measurements.append(one)
                outcome = one.get("error") or ", ".join(f"{s:.3g} s" for s in one["epochs"])
                print(f"{number}/{repeats} {network} {competitor}: {outcome}", file=sys.stderr)
    rows = [
        row(network, competitor, samples[network.partition("_")[0]], measurements)
        for (network, competitor), measurements in results.items()
    ]
    return {"device": device, "rows": with_ratios(rows)}


def select_pairs(names: list[str] | tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the selected pairs of network and competitor, without uninstalled frameworks."""
    networks = [name for name in NETWORKS if name in names] or list(NETWORKS)
    selected = [n for n in COMPETITORS if n in names or n.partition("-")[0] in names]
    competitors = []
    for name in selected or COMPETITORS:
        if COMPETITORS[name].is_installed:
            competitors.append(name)
        else:
            print(f"{name}: skipped, {COMPETITORS[name].package} is not installed")
    return [(n, c) for n in networks for c in competitors if n in COMPETITORS[c].networks]


def measure(
    network: str, competitor: str, arguments: argparse.Namespace, root: Path
) -> dict[str, Any]:
    """Train in a separate process and return its result, or `error`."""
    pipeline = COMPETITORS[competitor].pipeline
    is_short = arguments.quick or (pipeline == "tutorial" and network.startswith("mnist"))
    job = {
        "network": network,
        "competitor": competitor,
        "epochs": 1 + (1 if is_short else NETWORKS[network].epochs),
        "device": arguments.device,
        "root": str(root),
    }
    command = [sys.executable, __file__, "--worker", json.dumps({**job, "launched": time.time()})]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        return {"error": (result.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(result.stdout.splitlines()[-1])


def run_worker(job: dict[str, Any]) -> None:
    """Train, and print the measurement as a line of JSON."""
    timer = Timer(job["launched"], job["device"])
    competitor = COMPETITORS[job["competitor"]]
    root = Path(job["root"])
    workload = Workload(job["network"], competitor.pipeline, job["epochs"], job["device"], root)
    accuracy = competitor.load().train(workload, timer)

    import torch

    from dltrain.rundir.provenance import device_record

    measurement = {
        "epochs": timer.epochs,
        "first_step": timer.first_step,
        "peak_bytes": timer.peak_bytes,
        "accuracy": accuracy,
        "device": device_record(torch.device(workload.device), "fp32"),
    }
    print(json.dumps(measurement))


def versions() -> dict[str, str]:
    """Return the versions of Python, torch, dltrain and the installed frameworks."""
    installed = {"python": platform.python_version(), "dltrain": __version__}
    packages = ["torch", *(c.package for c in COMPETITORS.values() if c.package)]
    for package in dict.fromkeys(packages):
        with suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


if __name__ == "__main__":
    main()
