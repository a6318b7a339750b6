"""Unwritable paths, unusual names, a second process, closed output, and long runs."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import small_runs
import yaml
from processes import ChildProcess, command_line
from rows import Row, assert_within
from small_data import write_color_images

import dltrain
from dltrain.core.errors import RunError
from dltrain.rundir.directory import Run

# ------------------------------------------------------------------- as an unprivileged user


def run_unprivileged(*words: object) -> None:
    """Run a command line without root's permission to write anywhere."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of capset(2), of this process
    nothing = (ctypes.c_uint32 * 6)()
    if os.geteuid() == 0 and ctypes.CDLL(None).capset(header, nothing):
        raise OSError("capset failed")
    command_line(*words)


def _read_only_parent(folder: Path) -> Path:
    (folder / "locked").mkdir(mode=0o555)
    return folder / "locked" / "run"


def _read_only_directory(folder: Path) -> Path:
    (folder / "run").mkdir(mode=0o555)
    return folder / "run"


def _file(folder: Path) -> Path:
    (folder / "run").touch()
    return folder / "run"


def _file_above(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "run"


def _unwritable_log(folder: Path) -> Path:
    (folder / "run").mkdir()
    (folder / "run" / "log.txt").touch(mode=0o444)
    return folder / "run"


def _unwritable_metrics(folder: Path) -> Path:
    (folder / "run").mkdir()
    (folder / "run" / "metrics.jsonl").touch(mode=0o444)
    return folder / "run"


def _file_for_checkpoints(folder: Path) -> Path:
    (folder / "run").mkdir()
    (folder / "run" / "checkpoints").touch()
    return folder / "run"


def _file_for_tensorboard(folder: Path) -> Path:
    (folder / "run").mkdir()
    (folder / "run" / "tensorboard").touch()
    return folder / "run"


def _dangling_link(folder: Path) -> Path:
    (folder / "run").symlink_to(folder / "nowhere" / "deep")
    return folder / "run"


def _name_too_long(folder: Path) -> Path:
    return folder / ("x" * 256)


PATHS: list[Callable[[Path], Path]] = [
    _read_only_parent,
    _read_only_directory,
    _file,
    _file_above,
    _unwritable_log,
    _unwritable_metrics,
    _file_for_checkpoints,
    _file_for_tensorboard,
    _dangling_link,
    _name_too_long,
]


def refused(number: int, folder: Path) -> None:
    """Train in a run directory that cannot be created or written."""
    small_runs.write_folder(folder)
    run = PATHS[number](folder)
    words = ("train", "config.yaml", "recording.tensorboard=true", "--run-dir", run)
    process = ChildProcess("train", folder, run_unprivileged, *words)
    code = process.wait()
    assert code in (1, 2), process.err
    assert process.out == ""
    lines = process.err.splitlines()
    errors = [line for line in lines if not line.startswith(("run directory:", "Usage:", "Try "))]
    assert len([line for line in errors if line]) == 1, process.err
    assert run.name in errors[-1] or run.parent.name in errors[-1]
    assert not any(Path(folder).rglob("step-*")), "a step was taken"
    assert not any(path.stat().st_size for path in folder.rglob("metrics.jsonl"))


# ----------------------------------------------------------------------------- unusual names

NAMES = [
    "two words",
    "é",
    "中文",
    "emoji 🚀",
    "new\nline",
    "-dash",
    "per%cent",
    "quo\"te'",
    "x" * 255,
]


def unusual_name(number: int, folder: Path) -> None:
    """Train, resume, evaluate and predict in a run directory with an unusual name."""
    small_runs.write_folder(folder)
    run = folder / NAMES[number]
    steps = ["train.steps=4", "recording.tensorboard=true"]
    commands = [
        ["train", "config.yaml", *steps, "--run-dir", run],
        ["resume", run],
        ["evaluate", run, "--json"],
        ["predict", run, "image.png", "--json"],
    ]
    from PIL import Image

    Image.new("L", (8, 8), 90).save(folder / "image.png")
    for words in commands:
        if words[0] == "resume":  # as if it had been killed after its last checkpoint
            (run / "summary.json").unlink()
        process = ChildProcess("process", folder, command_line, *words)
        assert process.wait() == 0, process.err
    assert "label" in json.loads(process.out)[0]


# ----------------------------------------------------------------------------- a second process


def second_process(number: int, folder: Path) -> None:
    """Open a run that another process has locked, then kill that process."""
    write_color_images(folder / "my_images", 20)
    config = {
        "model": {"name": "cnn", "channels": [4]},
        "data": {"name": "image_folder", "root": "my_images", "size": 12, "workers": number % 3},
        "loss": "cross_entropy",
        "optimizer": "sgd",
        "train": {"steps": 100000, "batch_size": 4, "device": "cpu"},
        "checkpoint": {"every": "2 steps"},
        "recording": {"tensorboard": False},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    words = ("train", "config.yaml", "--run-dir", "run", "--quiet")
    first = ChildProcess("first", folder, command_line, *words)
    try:
        while not (folder / "run" / "checkpoints" / "latest.json").exists():
            assert first.running, first.err
            time.sleep(0.01)
        started = time.monotonic()
        with pytest.raises(RunError, match=f"is in use by process {first.pid} on "):
            dltrain.resume(folder / "run", quiet=True)
        assert_within(time.monotonic() - started, 2)
        assert first.running
    finally:
        first.end()
    with Run(folder / "run").locked():
        pass


# ------------------------------------------------------------------------------------- output


def _closed(*descriptors: int) -> Callable[[], None]:
    def prepare() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return prepare


def _full(*descriptors: int) -> Callable[[], None]:
    def prepare() -> None:
        for descriptor in descriptors:
            os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)

    return prepare


def _reader_gone(*descriptors: int) -> Callable[[], None]:
    def prepare() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        for descriptor in descriptors:
            os.dup2(writer, descriptor)

    return prepare


OUTPUTS: dict[str, tuple[Callable[[], None] | None, dict[str, str]]] = {
    "standard output closed": (_closed(1), {}),
    "standard error closed": (_closed(2), {}),
    "both closed": (_closed(1, 2), {}),
    "standard input closed": (_closed(0), {}),
    "standard output full": (_full(1), {}),
    "standard error full": (_full(2), {}),
    "both full": (_full(1, 2), {}),
    "nobody reads standard output": (_reader_gone(1), {}),
    "nobody reads either": (_reader_gone(1, 2), {}),
    "no terminal": (os.setsid, {}),
    "TERM=dumb": (None, {"TERM": "dumb"}),
    "NO_COLOR": (None, {"NO_COLOR": "1"}),
    "ASCII": (None, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}),
}


FULL = ("standard output full", "both full")


def output(number: int, folder: Path) -> None:
    """Train with a faulty standard output or environment."""
    small_runs.write_folder(folder)
    prepare, environment = list(OUTPUTS.values())[number]
    done = subprocess.run(
        [sys.executable, "-m", "dltrain", "train", "config.yaml", "--run-dir", "é run"],
        cwd=folder,
        env={**os.environ, **environment},
        preexec_fn=prepare,
        capture_output=True,
        check=False,
    )
    # A result that cannot be written is a failure of every command.
    assert done.returncode == (list(OUTPUTS)[number] in FULL), done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    run = folder / "é run"
    assert json.loads((run / "summary.json").read_text())["status"] == "done"
    assert (run / "checkpoints" / "step-0000000010" / "manifest.json").exists()
    assert "test" in (run / "log.txt").read_text(encoding="utf-8")


# -------------------------------------------------------------------------------------- long runs


def long_run(number: int, folder: Path) -> None:
    """Check the memory, checkpoints and event files of a long run."""
    small_runs.write_folder(folder)
    steps = (3000, 100000)[number]
    config = small_runs.CONFIG | {
        "train": {"steps": steps, "batch_size": 32, "evaluate": "500 steps", "device": "cpu"},
        "checkpoint": {"every": "500 steps", "best": "val/accuracy"},
        "recording": {"log_every": 1, "histograms": True},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    words = ("train", "config.yaml", "--run-dir", "run", "--quiet")
    process = ChildProcess(
        "long", folder, command_line, *words, environment={"OMP_NUM_THREADS": "1"}
    )
    kept: list[tuple[int, int]] = []
    latest, statm = (
        folder / "run" / "checkpoints" / "latest.json",
        Path(f"/proc/{process.pid}/statm"),
    )
    try:
        while process.running:
            if latest.exists():
                step = json.loads(latest.read_text())["step"]
                if not kept or kept[-1][0] != step:
                    try:
                        kept.append((step, int(statm.read_text().split()[1])))
                    except (OSError, IndexError):
                        break
            time.sleep(0.01)
    finally:
        code = process.wait() if number == 0 else _patiently(process)
    assert code == 0, process.err
    tenth = steps / 10
    early = [pages for step, pages in kept if tenth < step <= 2 * tenth]
    late = [pages for step, pages in kept if step > 9 * tenth]
    assert sum(late) / len(late) < 1.02 * sum(early) / len(early)
    checkpoints = [p for p in (folder / "run" / "checkpoints").iterdir() if p.is_dir()]
    assert len(checkpoints) <= 4
    from dltrain.loggers.tensorboard import MAX_FILE_BYTES

    files = list((folder / "run" / "tensorboard").iterdir())
    assert max(path.stat().st_size for path in files) < 1.2 * MAX_FILE_BYTES


def _patiently(process: ChildProcess) -> int:
    while process.running:
        time.sleep(0.1)
    return process.wait()


ROWS = [
    Row(
        "a run directory that cannot be created or written, as an unprivileged user",
        "one line before the first step",
        refused,
        pr=len(PATHS),
        release=len(PATHS),
    ),
    Row(
        "paths with spaces, é, 中, emoji, a newline, quotes, 255 bytes",
        "train, resume, evaluate and predict work",
        unusual_name,
        pr=len(NAMES),
        release=len(NAMES),
    ),
    Row(
        "a second process on the same run directory",
        "refused within 2 s, naming the holder; free after SIGKILL, orphaned workers or not",
        second_process,
        pr=5,
        release=20,
    ),
    Row(
        "output closed, full or unread, no terminal, TERM=dumb, NO_COLOR, ASCII",
        "training finishes, its files are complete",
        output,
        pr=len(OUTPUTS),
        release=len(OUTPUTS),
    ),
    Row(
        "3,000 and 100,000 steps with everything logged",
        "memory in the last tenth within 2% of the second, checkpoints pruned, event files bounded",
        long_run,
        pr=1,
        release=2,
    ),
]
