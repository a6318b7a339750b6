"""Run the fault injections of tests/faults with the number of trials required for a release.

    python scripts/torture.py [--only WORDS] [--trials N] [--out DIRECTORY]

Each completed trial is appended to trials.jsonl, and an interrupted run resumes after the last one.
The results are written to torture.json, and to table.md as a table. The folder of a failed trial
is kept. The exit code is 1 if a trial failed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "faults")]


def all_rows() -> list:
    """Return the rows of every module tests/faults/*_faults.py, sorted by module name."""
    modules = [
        importlib.import_module(path.stem) for path in sorted(TESTS.glob("faults/*_faults.py"))
    ]
    return [row for module in modules for row in module.ROWS]


def attempt(row, number: int) -> dict:
    """Run one trial and return its line of trials.jsonl."""
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    working_directory, start, error = Path.cwd(), time.perf_counter(), None
    try:
        os.chdir(folder)
        row.trial(number, folder)
    except Exception:  # every error fails the trial and is reported in its line
        error = traceback.format_exc()
    finally:
        os.chdir(working_directory)
    if error is None:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = round(time.perf_counter() - start, 3)
    return {"row": row.name, "number": number, "seconds": seconds, "error": error}


def table(rows: list, lines: list[dict]) -> str:
    """Return a Markdown table of faults, requirements and passed trials."""
    text = ["| fault | requirement | passed | cases |", "| --- | --- | --- | --- |"]
    for row in rows:
        own = [line for line in lines if line["row"] == row.name]
        passed = sum(line["error"] is None for line in own)
        text.append(
            f"| {row.name} | {row.promise} | {passed}/{len(own)} | {len(own) * row.cases} |"
        )
    return "\n".join(text)


def main() -> None:
    """Run the remaining trials and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="WORDS",
        help="run only the rows whose name contains these words (default: all)",
    )
    parser.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="maximum number of trials per row (default: the size of a release)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("torture"),
        metavar="DIRECTORY",
        help="output directory (default: torture)",
    )
    arguments = parser.parse_args()
    os.environ["DLTRAIN_TIMED"] = "1"  # assert time limits, which requires an idle machine
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = arguments.out / "trials.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    completed = {(line["row"], line["number"]) for line in lines}
    rows = [row for row in all_rows() if arguments.only in row.name]
    with log.open("a") as file:
        for row in rows:
            for number in range(min(row.release, arguments.trials or row.release)):
                if (row.name, number) in completed:
                    continue
                line = attempt(row, number)
                lines.append(line)
                print(json.dumps(line), file=file, flush=True)
                if line["error"]:
                    print(f"FAILED: {row.name}, trial {number}\n{line['error']}", flush=True)
            print(table([row], lines).splitlines()[-1], flush=True)
    summary = {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "rows": [
            {
                "name": row.name,
                "trials": len(own := [line for line in lines if line["row"] == row.name]),
                "cases": len(own) * row.cases,
                "failed": [line["number"] for line in own if line["error"]],
                "seconds": round(sum(line["seconds"] for line in own), 1),
            }
            for row in rows
        ],
    }
    (arguments.out / "torture.json").write_text(json.dumps(summary, indent=1))
    (arguments.out / "table.md").write_text(table(rows, lines) + "\n")
    print(table(rows, lines))
    sys.exit(any(row["failed"] for row in summary["rows"]))


if __name__ == "__main__":
    main()
