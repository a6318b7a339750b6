"""Runs every GPU test and GPU benchmark; each result is written as soon as there is one.

    python scripts/gpu_check.py                    writes docs/measurements/DEVICE-DATE.json
    python scripts/gpu_check.py --seconds 240 --only smoke --output X.json

In this order: the smoke tests, the other tests of tests/gpu (correctness), and the measurements,
the most valuable first. Each test file and each measurement runs in a process of its own with a
hard limit, so that neither a crash nor a hang takes anything else with it. `--seconds` bounds the
whole: nothing starts that can't finish in what is left. Exits with 1 where a package or the GPU is
missing, or where a test or a measurement failed, hung or, on a GPU, was skipped.

Accuracies, the time to 99 % and Lightning need MNIST, which is looked for in $DLTRAIN_DATA, data/
and shared/data; without it the other measurements use random images of its size. The result says
which. `--stand-in-cpu` runs the same program on the CPU, with tiny measurements, to try the program
itself; its result says "cpu stand-in" and proves nothing about a GPU.
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

from bench import children
from bench.gpu_plan import DEADLINE, ROWS, SMOKE, Row, limit_of_test, seconds_of_test

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
MNIST_FILES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
TESTS_SHARE = 0.6
"""Fraction of the time after which no further test starts, so that some is left to measure."""

START_SECONDS = 10.0
"""What a process needs to start and to import torch, on top of its first test."""

START_LIMIT = 120.0
STAND_IN = "DLTRAIN_GPU_STAND_IN"
"""Environment variable of the tests in tests/gpu: `cpu` lets the CPU stand in for the GPU."""

Entry = dict[str, Any]


class Results:
    """The result file, replaced atomically after every change.

    Args:
        path: Where; None until the device, which gives it its name, is known.
        seconds: The whole time.
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
        """Seconds that are left."""
        return self.deadline - time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def put(self, entries: dict[str, Entry], name: str, entry: Entry) -> None:
        """Records a test or a row, and prints a line about it unless it has only been planned."""
        with self._lock:
            entries[name] = entry
            self._write()
            if entry["outcome"] == "planned":
                return
            print(f"{self.spent:6.1f} s  {entry['outcome']:8} {name}", flush=True)
            for line in str(entry.get("message", "")).splitlines()[:3]:
                print(f"          {line}", flush=True)
            for key, value in entry.get("figures", {}).items():
                print(f"          {key:58} {_shown(value)}", flush=True)

    def update(self, **head: Any) -> None:
        """Records something about the whole."""
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


def _shown(value: float | None) -> str:
    return "not finite" if value is None else f"{value:10.4g}"


class Check:
    """One run of this script.

    Args:
        results: Receives everything.
        only: Pattern of the tests and rows to run; None for all.
        stand_in: Whether the CPU stands in.
        jobs: Test files at once.
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

    def wants(self, name: str) -> bool:
        """Whether `--only` asks for it."""
        return self.only is None or self.only.search(name) is not None

    def machine(self) -> Entry:
        """What `bench.machine` tells: `machine`, or why nothing can be run."""
        told: Entry = {}
        command = [sys.executable, "-m", "bench.machine"]
        if self.stand_in:
            command.append("--stand-in-cpu")
        ending = children.run(
            command,
            cwd=ROOT,
            environment=self.environment,
            seconds=min(START_LIMIT, self.results.left),
            on_event=told.update,
        )
        if not told:
            told["crashed"] = [ending.reason or f"exit code {ending.code}", *ending.tail]
        return told

    # ------------------------------------------------------------------------------------- tests

    def plan_tests(self) -> list[str]:
        """The names of all tests marked `gpu` that are wanted; files that fail are results."""
        names: list[str] = []

        def on_event(event: children.Event) -> None:
            if "collected" in event:
                names.extend(event["collected"])
            else:
                self._record(event)

        ending = self._pytest(
            ["--collect-only", "tests/gpu"], START_LIMIT, on_event, lambda: START_LIMIT
        )
        if not names and not self.results.tests:
            entry = _failed(ending.reason or f"exit code {ending.code}", ending.tail)
            self.results.put(self.results.tests, "tests/gpu", entry)
        wanted = [name for name in names if self.wants(name)]
        wanted.sort(key=lambda name: SMOKE not in name)  # stable: otherwise in pytest's order
        for name in wanted:
            self.results.put(self.results.tests, name, {"outcome": "planned"})
        return wanted

    def run_tests(self, names: list[str]) -> None:
        """Runs the smoke tests alone, then the other files, some at once."""
        files = [list(of_file) for _, of_file in groupby(names, lambda n: n.partition("::")[0])]
        smoke = [file for file in files if SMOKE in file[0]]
        for file in smoke:
            self.run_file(file, self.results.deadline)
        seconds = self.results.deadline - self.results.started
        until = self.results.started + TESTS_SHARE * seconds
        with ThreadPoolExecutor(self.jobs) as pool:
            others = [file for file in files if file not in smoke]
            for done in [pool.submit(self.run_file, file, until) for file in others]:
                done.result()

    def run_file(self, names: list[str], until: float) -> None:
        """Runs the tests of one file, and goes on behind one that crashes or hangs.

        Args:
            names: The tests.
            until: When no further one may start, in seconds of `time.monotonic`.
        """
        left = list(names)
        while left:
            seconds = until - time.monotonic()
            if seconds < START_SECONDS + seconds_of_test(left[0]):
                self._put_all(left, {"outcome": "not run", "message": "no time"})
                return
            running: list[str] = []
            done: set[str] = set()

            def on_event(
                event: children.Event, running: list[str] = running, done: set[str] = done
            ) -> None:
                if "started" in event:
                    running[:] = [event["started"]]
                elif "test" in event:
                    running.clear()
                    done.add(event["test"])
                    self._record(event)

            def patience(running: list[str] = running) -> float:
                return limit_of_test(running[0]) if running else START_LIMIT

            # Behind the deadline the tests report by themselves that they were not run.
            ending = self._pytest(left, self.results.left + 5, on_event, patience, seconds)
            if running:
                reason = ending.reason or f"the process ended with exit code {ending.code}"
                self.results.put(self.results.tests, running[0], _failed(reason, ending.tail))
                done.add(running[0])
            if not done:
                reason = ending.reason or f"pytest ended with exit code {ending.code}"
                self._put_all(left, _failed(reason, ending.tail))
                return
            left = [name for name in left if name not in done]

    def _pytest(
        self,
        words: list[str],
        seconds: float,
        on_event: Any,
        patience: Any,
        until: float = float("inf"),
    ) -> children.Ending:
        # Warnings are errors in this project's tests; another torch may warn of other things.
        # What a test prints is not captured, so that the last words of one that crashes are kept.
        options = ("-q", "-s", "-p", "no:cacheprovider", "-p", "bench.gpu_pytest", "-W", "default")
        return children.run(
            [sys.executable, "-m", "pytest", *options, "-m", "gpu", *words],
            cwd=ROOT,
            environment={**self.environment, DEADLINE: str(time.time() + until)},
            seconds=seconds,
            on_event=on_event,
            patience=patience,
        )

    def _record(self, event: children.Event) -> None:
        name = event.pop("test")
        self.results.put(self.results.tests, name, event)

    def _put_all(self, names: list[str], entry: Entry) -> None:
        for name in names:
            self.results.put(self.results.tests, name, dict(entry))

    # ---------------------------------------------------------------------------------- the rows

    def run_rows(self, rows: list[Row], root: Path, is_mnist: bool) -> None:
        """Measures one after another, alone on the device."""
        for row in rows:
            if row.needs_mnist and not is_mnist and not self.stand_in:
                entry: Entry = {"outcome": "not run", "message": "MNIST is not there"}
            elif self.results.left < row.seconds:
                message = f"no time: {self.results.left:.0f} s are left, {row.seconds:.0f} needed"
                entry = {"outcome": "not run", "message": message}
            else:
                entry = self._measure(row, root)
            self.results.put(self.results.rows, row.name, entry)

    def _measure(self, row: Row, root: Path) -> Entry:
        entry: Entry = {"outcome": "", "figures": {}}
        before = time.monotonic()

        def on_event(event: children.Event) -> None:
            entry["figures"] |= event.pop("figures", {})
            entry.update(event)

        command = [sys.executable, "-m", "bench.gpu", row.name, str(root)]
        if self.stand_in:
            command.append("--stand-in-cpu")
        limit = max(min(row.limit, self.results.left), 0)
        ending = children.run(
            command, cwd=SCRIPTS, environment=self.environment, seconds=limit, on_event=on_event
        )
        if not entry["outcome"]:
            entry |= _failed(ending.reason or f"exit code {ending.code}", ending.tail)
        return {**entry, "seconds": round(time.monotonic() - before, 1)}


def _failed(message: str, tail: list[str]) -> Entry:
    return {"outcome": "failed", "message": message, "traceback": tail}


def find_mnist() -> Path | None:
    """The first of the usual data folders that holds MNIST, packed or not."""
    named = os.environ.get("DLTRAIN_DATA")
    folders = [*([Path(named).resolve()] if named else []), ROOT / "data", ROOT / "shared" / "data"]
    folders.append(ROOT.parent / "shared" / "data")
    for folder in folders:
        raw = folder / "MNIST" / "raw"
        if all((raw / name).exists() or (raw / f"{name}.gz").exists() for name in MNIST_FILES):
            return folder
    return None


def write_random_images(root: Path, divisor: int) -> None:
    """Random images and labels in MNIST's files, a `divisor`-th of its number."""
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
    """Runs it all; the exit code."""
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
        help="run only the tests and measurements whose name matches this regular expression",
    )
    parser.add_argument(
        "--jobs", type=int, default=4, help="test files that run at once (default: 4)"
    )
    parser.add_argument(
        "--stand-in-cpu",
        action="store_true",
        help="try this program on the CPU; proves nothing about a GPU",
    )
    arguments = parser.parse_args()
    only = re.compile(arguments.only, re.IGNORECASE) if arguments.only else None
    stand_in = arguments.stand_in_cpu
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the children on the way out

    results = Results(arguments.output, arguments.seconds)
    check = Check(results, only, stand_in, arguments.jobs)
    told = check.machine()
    results.update(device=None, stand_in=stand_in, **told)
    if "machine" not in told:
        return _refuse(told)
    device = told["machine"]["device"]
    if results.path is None:
        name = re.sub(r"\W+", "-", device).lower()
        results.path = ROOT / "docs" / "measurements" / f"{name}-{results.head['date']}.json"
    results.update(device=device)
    print(f"{device}, torch {told['machine']['torch']}; results: {results.path}", flush=True)

    rows = [row for row in ROWS if check.wants(row.name)]
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
            results.update(data="MNIST" if is_mnist else "random images of MNIST's size")
            check.run_rows(rows, root, is_mnist)
    results.update(complete=True)
    return _summarize(results, stand_in)


def _refuse(told: Entry) -> int:
    """Says why nothing was run."""
    for module, reason in told.get("missing", {}).items():
        print(f"missing: {module}: {reason}", file=sys.stderr)
    if "missing" in told:
        print(
            "nothing was run; wheels in a folder are installed by: "
            "pip install --no-index --find-links FOLDER PACKAGE",
            file=sys.stderr,
        )
    if "no_device" in told:
        print(f"{told['no_device']}: nothing was run", file=sys.stderr)
    for line in told.get("crashed", []):
        print(line, file=sys.stderr)
    return 1


def _summarize(results: Results, stand_in: bool) -> int:
    """Prints what failed; the exit code."""
    entries = {**results.tests, **results.rows}
    count = {o: sum(e["outcome"] == o for e in entries.values()) for o in ("passed", "not run")}
    harmless = {"passed", "not run", *(["skipped"] if stand_in else [])}
    bad = {name: e["outcome"] for name, e in entries.items() if e["outcome"] not in harmless}
    for name, outcome in bad.items():
        print(f"{outcome}: {name}")
    print(
        f"{count['passed']} of {len(entries)} passed, {len(bad)} failed, "
        f"{count['not run']} not run, {results.spent:.0f} s"
    )
    if stand_in:
        print("the CPU stood in: this says nothing about a GPU")
    return 0 if count["passed"] and not bad else 1


if __name__ == "__main__":
    sys.exit(main())
