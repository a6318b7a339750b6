"""Measures dltrain beside other ways of training the same networks on the same data.

    python scripts/benchmark.py                             everything, about 45 minutes
    python scripts/benchmark.py --quick                     one repeat, two epochs, a few minutes
    python scripts/benchmark.py --only mnist_mlp dltrain limit keras
    python scripts/benchmark.py --only startup first-step   the command line alone
    python scripts/benchmark.py --only to-99                time to read 99% of MNIST's test digits

Each measurement is a process of its own, and the competitors take turns: dltrain as
`dltrain train` runs, with scalars, TensorBoard and a checkpoint each epoch; `limit`, a hand-written
loop over tensors in memory; `tutorial`, the loop of most tutorials; and frameworks, with tensors
and with the tutorial's data, without progress bars, logs and checkpoints, which favours them. What
is not installed is left out: pip install 'dltrain[bench]'.

MNIST and SST-2 must be in DLTRAIN_DATA. The table is printed; when everything was measured, it is
also written to docs/performance.md, and the figures to docs/measurements/.
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

from bench.commands import MEASURES
from bench.inputs import prepare
from bench.report import about, row, table, update_page, with_ratios
from bench.work import COMPETITORS, NETWORKS, Clock, Work

DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    """Measures what is asked for."""
    arguments = parsed()
    if arguments.worker:
        work(json.loads(arguments.worker))
        return
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "repeats": 1 if arguments.quick else arguments.repeats,
        "samples": arguments.samples,
    }
    chosen = arguments.only or [*MEASURES, *NETWORKS]
    commands = {name: MEASURES[name](arguments.quick) for name in MEASURES if name in chosen}
    for figures in commands.values():
        for key, value in figures.items():
            print(f"{key:44} {value:10.4g}")
    if set(chosen) - set(MEASURES):
        result |= measured(arguments, result["repeats"])
        print(f"\n{table(result['rows'])}")
    result["commands"] = commands
    whole = not (arguments.only or arguments.quick or arguments.samples)
    output = arguments.output
    if whole:
        output = (
            output or DOCS / "measurements" / f"benchmark-{arguments.device}-{result['date']}.json"
        )
        text = f"{about(result)}\n\n{table(result['rows'])}"
        update_page(DOCS / "performance.md", text)
    if output:
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if any("error" in one for one in result.get("rows", [])):
        sys.exit(1)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    families = {name.partition("-")[0] for name in COMPETITORS} - set(COMPETITORS)
    words = [*MEASURES, *NETWORKS, *COMPETITORS, *sorted(families)]
    parser.add_argument(
        "--only", nargs="+", choices=words, metavar="WORD", help=f"some of: {', '.join(words)}"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--quick", action="store_true", help="one repeat, two epochs")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each measurement")
    parser.add_argument("--samples", type=int, help="at most so many of each split, to try it out")
    parser.add_argument("--output", type=Path, help="where to write the figures, JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(arguments: argparse.Namespace, repeats: int) -> dict[str, Any]:
    """The device, and the rows of the table."""
    pairs = chosen_pairs(arguments.only or ())
    told: dict[tuple[str, str], list[dict]] = {pair: [] for pair in pairs}
    device = None
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        samples = prepare(Path(os.environ.get("DLTRAIN_DATA", "data")), root, arguments.samples)
        for number in range(1, repeats + 1):
            for (network, competitor), measurements in told.items():
                if any("error" in one for one in measurements):
                    continue
                one = measurement(network, competitor, arguments, root)
                device = one.pop("device", device)
                measurements.append(one)
                seconds = one.get("error") or ", ".join(f"{s:.3g} s" for s in one["epochs"])
                print(f"{number}/{repeats} {network} {competitor}: {seconds}", file=sys.stderr)
    rows = [
        row(network, competitor, samples[network.partition("_")[0]], measurements)
        for (network, competitor), measurements in told.items()
    ]
    return {"device": device, "rows": with_ratios(rows)}


def chosen_pairs(words: list[str] | tuple[str, ...]) -> list[tuple[str, str]]:
    """Networks and competitors that the words ask for and that can be had here."""
    networks = [name for name in NETWORKS if name in words] or list(NETWORKS)
    asked = [n for n in COMPETITORS if n in words or n.partition("-")[0] in words]
    competitors = []
    for name in asked or COMPETITORS:
        if COMPETITORS[name].is_installed:
            competitors.append(name)
        else:
            print(f"{name}: {COMPETITORS[name].package} is not installed, left out")
    return [(n, c) for n in networks for c in competitors if n in COMPETITORS[c].networks]


def measurement(
    network: str, competitor: str, arguments: argparse.Namespace, root: Path
) -> dict[str, Any]:
    """What a process of its own tells, or how it failed."""
    pipeline = COMPETITORS[competitor].pipeline
    short = arguments.quick or (pipeline == "tutorial" and network.startswith("mnist"))
    task = {
        "network": network,
        "competitor": competitor,
        "epochs": 1 + (1 if short else NETWORKS[network].epochs),
        "device": arguments.device,
        "root": str(root),
    }
    command = [sys.executable, __file__, "--worker", json.dumps({**task, "launched": time.time()})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def work(task: dict[str, Any]) -> None:
    """Trains, and prints what the clock says, as a line of JSON."""
    clock = Clock(task["launched"], task["device"])
    competitor = COMPETITORS[task["competitor"]]
    root = Path(task["root"])
    job = Work(task["network"], competitor.pipeline, task["epochs"], task["device"], root)
    accuracy = competitor.load().train(job, clock)

    import torch

    from dltrain.rundir.provenance import device_record

    told = {
        "epochs": clock.epochs,
        "first_step": clock.first_step,
        "peak_bytes": clock.peak_bytes,
        "accuracy": accuracy,
        "device": device_record(torch.device(job.device), "fp32"),
    }
    print(json.dumps(told))


def versions() -> dict[str, str]:
    """Of Python, torch and what else takes part."""
    found = {"python": platform.python_version()}
    packages = ["dltrain", "torch", *(c.package for c in COMPETITORS.values() if c.package)]
    for package in dict.fromkeys(packages):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


if __name__ == "__main__":
    main()
