"""Run all GPU tests and GPU measurements, and write each result immediately.

    python scripts/gpu_check.py                    writes docs/measurements/DEVICE-DATE.json
    python scripts/gpu_check.py --seconds 240 --only smoke --output X.json

The smoke tests run first, then the other tests of tests/gpu, then the measurements, most valuable
first. Each test file and each measurement runs in a separate process with a time limit, so that a
crash or a hang does not affect other results. `--seconds` limits the total duration: nothing is
started that is not expected to finish in the remaining time. The exit code is 1 if a package or the
GPU is missing, or if a test or a measurement fails, hangs or, on a GPU, is skipped.

Accuracies, the time to 99% and Lightning need MNIST, which is searched in $DLTRAIN_DATA, data/ and
shared/data; without it the other measurements use random images of the same size. The result names
the data used. `--stand-in-cpu` runs tests and tiny measurements on the CPU to test this program;
its results say "cpu stand-in" and prove nothing about a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

from bench import subprocesses
from bench.gpu_plan import DEADLINE, ROWS, SMOKE, Row, limit_of_test, seconds_of_test

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
MNIST_FILES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
TEST_FRACTION = 0.6
"""Fraction of the total time after which no test is started; the rest is for measurements."""

START_SECONDS = 10.0
"""Expected time to start a process and import torch, in addition to its first test."""

START_LIMIT = 120.0
"""Seconds after which a process that has not started its first test is killed."""

STAND_IN = "DLTRAIN_GPU_STAND_IN"
"""Environment variable of tests/gpu: `cpu` runs the tests on the CPU instead of a GPU."""

Entry = dict[str, Any]


class Results:
    """Result file, replaced atomically after every change.

    Args:
        path: Path of the file; None until the device, which determines the name, is known.
        seconds: Total time limit.
    """

    def __init__(self, path: Path | None, seconds: float) -> None:
        self.path = path
        self.started = time.monotonic()
        self.deadline = self.started + seconds
        self.head: Entry = {"machine": None, "date": time.strftime("%Y-%m-%d"), "complete": False}
        self.tests: dict[str, Entry] = {}
        self.rows: dict[str, Entry] = {}
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """Remaining seconds."""
        return self.deadline - time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def put(self, entries: dict[str, Entry], name: str, entry: Entry) -> None:
        """Record a test or a measurement, and print it unless it is only planned."""
        with self._lock:
            entries[name] = entry
            self._write()
            if entry["outcome"] == "planned":
                return
            print(f"{self.spent:6.1f} s  {entry['outcome']:8} {name}", flush=True)
            for line in str(entry.get("message", "")).splitlines()[:3]:
                print(f"          {line}", flush=True)
            for key, value in entry.get("figures", {}).items():
                print(f"          {key:58} {_format_figure(value)}", flush=True)

    def update(self, **head: Any) -> None:
        """Record properties of the whole run."""
        with self._lock:
            self.head |= head
            self._write()

    def _write(self) -> None:
        if self.path is None:
            return
        figures = {k: v for row in self.rows.values() for k, v in row.get("figures", {}).items()}
        content = {
            **self.head,
            "seconds": round(self.spent, 1),
            "figures": figures,
            "rows": self.rows,
            "tests": self.tests,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(self.path)


def _format_figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:10.4g}"


class Check:
    """Runs the selected tests and measurements.

    Args:
        results: Result file.
        only: Pattern of the names to run; None for all.
        stand_in: Whether the CPU replaces the GPU.
        jobs: Number of test files that run in parallel.
    """

    def __init__(
        self, results: Results, only: re.Pattern[str] | None, stand_in: bool, jobs: int
    ) -> None:
        self.results, self.only, self.stand_in, self.jobs = results, only, stand_in, jobs
        paths = [str(ROOT), str(SCRIPTS), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "DLTRAIN_REQUIRE_GPU": "" if stand_in else "1",
            STAND_IN: "cpu" if stand_in else "",
        }

    def is_selected(self, name: str) -> bool:
        """Whether `--only` selects a name."""
        return self.only is None or self.only.search(name) is not None

    def machine(self) -> Entry:
        """Run `bench.machine` and return its event `machine`, or why nothing can be run."""
        report: Entry = {}
        command = [sys.executable, "-m", "bench.machine"]
        if self.stand_in:
            command.append("--stand-in-cpu")
        result = subprocesses.run(
            command,
            cwd=ROOT,
            environment=self.environment,
            seconds=min(START_LIMIT, self.results.left),
            on_event=report.update,
        )
        if not report:
            report["crashed"] = [result.reason or f"exit code {result.code}", *result.tail]
        return report

    # ------------------------------------------------------------------------------------- tests

    def plan_tests(self) -> list[str]:
        """Return the names of the selected tests; record files that cannot be imported."""
        names: list[str] = []

        def on_event(event: subprocesses.Event) -> None:
            if "collected" in event:
                names.extend(event["collected"])
            else:
                self._record(event)

        result = self._pytest(
            ["--collect-only", "tests/gpu"], START_LIMIT, on_event, lambda: START_LIMIT
        )
        if not names and not self.results.tests:
            entry = _failed(result.reason or f"exit code {result.code}", result.tail)
            self.results.put(self.results.tests, "tests/gpu", entry)
        selected = [name for name in names if self.is_selected(name)]
        selected.sort(key=lambda name: SMOKE not in name)  # a stable sort keeps pytest's sequence
        for name in selected:
            self.results.put(self.results.tests, name, {"outcome": "planned"})
        return selected

    def run_tests(self, names: list[str]) -> None:
        """Run the smoke tests alone, then the other files in parallel."""
        files = [list(of_file) for _, of_file in groupby(names, lambda n: n.partition("::")[0])]
        smoke = [file for file in files if SMOKE in file[0]]
        for file in smoke:
            self.run_file(file, self.results.deadline)
        seconds = self.results.deadline - self.results.started
        until = self.results.started + TEST_FRACTION * seconds
        with ThreadPoolExecutor(self.jobs) as pool:
            others = [file for file in files if file not in smoke]
            for future in [pool.submit(self.run_file, file, until) for file in others]:
                future.result()

    def run_file(self, names: list[str], until: float) -> None:
        """Run the tests of one file; after a crash or a hang, continue with the next test.

        Args:
            names: Names of the tests.
            until: Value of `time.monotonic` after which no test is started.
        """
        remaining = list(names)
        while remaining:
            seconds = until - time.monotonic()
            if seconds < START_SECONDS + seconds_of_test(remaining[0]):
                self._put_all(remaining, {"outcome": "not run", "message": "no time left"})
                return
            running: list[str] = []
            finished: set[str] = set()

            def on_event(
                event: subprocesses.Event,
                running: list[str] = running,
                finished: set[str] = finished,
            ) -> None:
                if "started" in event:
                    running[:] = [event["started"]]
                elif "test" in event:
                    running.clear()
                    finished.add(event["test"])
                    self._record(event)

            def idle_limit(running: list[str] = running) -> float:
                return limit_of_test(running[0]) if running else START_LIMIT

            # After the deadline the tests themselves report that they were not run.
            result = self._pytest(remaining, self.results.left + 5, on_event, idle_limit, seconds)
            if running:
                reason = result.reason or f"the process ended with exit code {result.code}"
                self.results.put(self.results.tests, running[0], _failed(reason, result.tail))
                finished.add(running[0])
            if not finished:
                reason = result.reason or f"pytest ended with exit code {result.code}"
                self._put_all(remaining, _failed(reason, result.tail))
                return
            remaining = [name for name in remaining if name not in finished]

    def _pytest(
        self,
        words: list[str],
        seconds: float,
        on_event: Any,
        idle_limit: Any,
        until: float = float("inf"),
    ) -> subprocesses.ProcessResult:
        # Warnings are errors in this project's tests, but another torch may issue other warnings.
        # Output is not captured, so that the last lines before a crash are kept.
        options = ("-q", "-s", "-p", "no:cacheprovider", "-p", "bench.gpu_pytest", "-W", "default")
        return subprocesses.run(
            [sys.executable, "-m", "pytest", *options, "-m", "gpu", *words],
            cwd=ROOT,
            environment={**self.environment, DEADLINE: str(time.time() + until)},
            seconds=seconds,
            on_event=on_event,
            idle_limit=idle_limit,
        )

    def _record(self, event: subprocesses.Event) -> None:
        name = event.pop("test")
        self.results.put(self.results.tests, name, event)

    def _put_all(self, names: list[str], entry: Entry) -> None:
        for name in names:
            self.results.put(self.results.tests, name, dict(entry))

    # ------------------------------------------------------------------------------ measurements

    def run_rows(self, rows: list[Row], root: Path, is_mnist: bool) -> None:
        """Run the measurements sequentially, each alone on the device."""
        for row in rows:
            if row.needs_mnist and not is_mnist and not self.stand_in:
                entry: Entry = {"outcome": "not run", "message": "MNIST not found"}
            elif self.results.left < row.seconds:
                message = f"no time left: {self.results.left:.0f} s, needs {row.seconds:.0f} s"
                entry = {"outcome": "not run", "message": message}
            else:
                entry = self._measure(row, root)
            self.results.put(self.results.rows, row.name, entry)

    def _measure(self, row: Row, root: Path) -> Entry:
        entry: Entry = {"outcome": "", "figures": {}}
        start = time.monotonic()

        def on_event(event: subprocesses.Event) -> None:
            entry["figures"] |= event.pop("figures", {})
            entry.update(event)

        command = [sys.executable, "-m", "bench.gpu", row.name, str(root)]
        if self.stand_in:
            command.append("--stand-in-cpu")
        limit = max(min(row.limit, self.results.left), 0)
        result = subprocesses.run(
            command, cwd=SCRIPTS, environment=self.environment, seconds=limit, on_event=on_event
        )
        if not entry["outcome"]:
            entry |= _failed(result.reason or f"exit code {result.code}", result.tail)
        return {**entry, "seconds": round(time.monotonic() - start, 1)}


def _failed(message: str, tail: list[str]) -> Entry:
    return {"outcome": "failed", "message": message, "traceback": tail}


def find_mnist() -> Path | None:
    """Return the first data folder with MNIST, compressed or not; None if there is none."""
    variable = os.environ.get("DLTRAIN_DATA")
    folders = [Path(variable).resolve()] if variable else []
    folders += [ROOT / "data", ROOT / "shared" / "data"]
    folders.append(ROOT.parent / "shared" / "data")
    for folder in folders:
        raw = folder / "MNIST" / "raw"
        if all((raw / name).exists() or (raw / f"{name}.gz").exists() for name in MNIST_FILES):
            return folder
    return None


def write_random_images(root: Path, divisor: int) -> None:
    """Write random images and labels in MNIST's files.

    Args:
        root: Folder in which MNIST/raw is created.
        divisor: Each file has the number of samples of MNIST divided by this.
    """
    generator = random.Random(0)  # noqa: S311 - pixels, not secrets
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, (count, *sides) in MNIST_FILES.items():
        shape = (count // divisor, *sides)
        head = bytes((0, 0, 8, len(shape))) + b"".join(n.to_bytes(4, "big") for n in shape)
        if sides:
            body = generator.randbytes(shape[0] * sides[0] * sides[1])
        else:
            body = bytes(i % 10 for i in range(shape[0]))
        (raw / name).write_bytes(head + body)


def main() -> int:
    """Run the tests and measurements and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--output",
        type=Path,
        help="result file (default: docs/measurements/DEVICE-DATE.json)",
    )
    parser.add_argument("--seconds", type=float, default=480.0, help="time limit (default: 480)")
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        help="run only tests and measurements whose name matches this regular expression "
        "(default: all)",
    )
    parser.add_argument(
        "--jobs", type=int, default=4, help="test files that run in parallel (default: 4)"
    )
    parser.add_argument(
        "--stand-in-cpu",
        action="store_true",
        help="run on the CPU to test this program; proves nothing about a GPU (default: off)",
    )
    arguments = parser.parse_args()
    only = re.compile(arguments.only, re.IGNORECASE) if arguments.only else None
    stand_in = arguments.stand_in_cpu
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, which kills the children

    results = Results(arguments.output, arguments.seconds)
    check = Check(results, only, stand_in, arguments.jobs)
    report = check.machine()
    results.update(device=None, stand_in=stand_in, **report)
    if "machine" not in report:
        return _print_obstacle(report)
    device = report["machine"]["device"]
    if results.path is None:
        name = re.sub(r"\W+", "-", device).lower()
        results.path = ROOT / "docs" / "measurements" / f"{name}-{results.head['date']}.json"
    results.update(device=device)
    print(f"{device}, torch {report['machine']['torch']}; results: {results.path}", flush=True)

    rows = [row for row in ROWS if check.is_selected(row.name)]
    for row in rows:
        results.put(results.rows, row.name, {"outcome": "planned"})
    check.run_tests(check.plan_tests())
    if rows:
        with tempfile.TemporaryDirectory() as folder:
            root = None if stand_in else find_mnist()
            is_mnist = root is not None
            if root is None:
                root = Path(folder)
                write_random_images(root, 200 if stand_in else 1)
            results.update(data="MNIST" if is_mnist else "random images of the size of MNIST")
            check.run_rows(rows, root, is_mnist)
    results.update(complete=True)
    return _summarize(results, stand_in)


def _print_obstacle(report: Entry) -> int:
    """Print why nothing was run and return the exit code."""
    for module, reason in report.get("missing", {}).items():
        print(f"missing: {module}: {reason}", file=sys.stderr)
    if "missing" in report:
        print(
            "nothing was run; to install wheels from a folder: "
            "pip install --no-index --find-links FOLDER PACKAGE",
            file=sys.stderr,
        )
    if "no_device" in report:
        print(f"{report['no_device']}: nothing was run", file=sys.stderr)
    for line in report.get("crashed", []):
        print(line, file=sys.stderr)
    return 1


def _summarize(results: Results, stand_in: bool) -> int:
    """Print the failures and the totals, and return the exit code."""
    entries = {**results.tests, **results.rows}
    count = {o: sum(e["outcome"] == o for e in entries.values()) for o in ("passed", "not run")}
    accepted = {"passed", "not run", *(["skipped"] if stand_in else [])}
    failed = {name: e["outcome"] for name, e in entries.items() if e["outcome"] not in accepted}
    for name, outcome in failed.items():
        print(f"{outcome}: {name}")
    print(
        f"{count['passed']} of {len(entries)} passed, {len(failed)} failed, "
        f"{count['not run']} not run, {results.spent:.0f} s"
    )
    if stand_in:
        print("run on the CPU instead of a GPU: this proves nothing about a GPU")
    return 0 if count["passed"] and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
