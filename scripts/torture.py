"""Every fault of tests/faults, at the size of a release: one JSON, and a table of what held.

    python scripts/torture.py [--only WORDS] [--trials N] [--out DIRECTORY]

Each trial is appended to trials.jsonl as it ends, so a run that was stopped goes on where it was.
A trial that fails keeps its folder. Exit code 1 if a promise was broken.
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
    """The rows of every module of tests/faults that has some, in the order of their names."""
    modules = [
        importlib.import_module(path.stem) for path in sorted(TESTS.glob("faults/*_faults.py"))
    ]
    return [row for module in modules for row in module.ROWS]


def attempt(row, number: int) -> dict:
    """One trial, as a line of trials.jsonl."""
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    before, started, error = Path.cwd(), time.perf_counter(), None
    try:
        os.chdir(folder)
        row.trial(number, folder)
    except Exception:  # whatever it is, it is told
        error = traceback.format_exc()
    finally:
        os.chdir(before)
    if error is None:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = round(time.perf_counter() - started, 3)
    return {"row": row.name, "number": number, "seconds": seconds, "error": error}


def table(rows: list, lines: list[dict]) -> str:
    """Markdown: what was injected, what must hold, and how often it did."""
    text = ["| fault | requirement | passed | cases |", "| --- | --- | --- | --- |"]
    for row in rows:
        mine = [line for line in lines if line["row"] == row.name]
        held = sum(line["error"] is None for line in mine)
        text.append(
            f"| {row.name} | {row.promise} | {held}/{len(mine)} | {len(mine) * row.cases} |"
        )
    return "\n".join(text)


def main() -> None:
    """Runs what has not been run yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default="", help="rows whose name has these words")
    parser.add_argument("--trials", type=int, help="at most so many trials of each row")
    parser.add_argument("--out", type=Path, default=Path("torture"))
    arguments = parser.parse_args()
    os.environ["DLTRAIN_TIMED"] = "1"  # here promised times are asserted: leave the machine alone
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = arguments.out / "trials.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(line["row"], line["number"]) for line in lines}
    rows = [row for row in all_rows() if arguments.only in row.name]
    with log.open("a") as file:
        for row in rows:
            for number in range(min(row.release, arguments.trials or row.release)):
                if (row.name, number) in done:
                    continue
                line = attempt(row, number)
                lines.append(line)
                print(json.dumps(line), file=file, flush=True)
                if line["error"]:
                    print(f"BROKEN: {row.name}, trial {number}\n{line['error']}", flush=True)
            print(table([row], lines).splitlines()[-1], flush=True)
    summary = {
        "when": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "rows": [
            {
                "name": row.name,
                "trials": len(mine := [line for line in lines if line["row"] == row.name]),
                "cases": len(mine) * row.cases,
                "broken": [line["number"] for line in mine if line["error"]],
                "seconds": round(sum(line["seconds"] for line in mine), 1),
            }
            for row in rows
        ],
    }
    (arguments.out / "torture.json").write_text(json.dumps(summary, indent=1))
    (arguments.out / "table.md").write_text(table(rows, lines) + "\n")
    print(table(rows, lines))
    sys.exit(any(row["broken"] for row in summary["rows"]))


if __name__ == "__main__":
    main()
