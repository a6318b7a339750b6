"""Data loading workers that exit, hang, or lack shared memory."""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import signal
import time
from contextlib import nullcontext
from multiprocessing.queues import Queue
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import torch
import yaml
from processes import ChildProcess, command_line
from rows import Row
from small_data import write_color_images

from dltrain.data import image_folder

KINDS = (
    "killed",
    "killed while idle",
    "raises",
    "asleep",
    "leaves",
    "stops",
    "no shared memory",
    "bus error",
    "batch lost",
)
HANG_SECONDS = 5
SHARED = ("no shared memory", "bus error")
CONFIG: dict[str, Any] = {
    "model": {"name": "mlp", "hidden": [4]},
    "data": {
        "name": "image_folder",
        "root": "images",
        "size": 8,
        "workers": 2,
        "validation": 0.2,
        "test": 0,
    },
    "loss": "cross_entropy",
    "optimizer": {"name": "sgd", "lr": 0.01},
    "train": {"epochs": 3, "batch_size": 4, "device": "cpu"},
    "recording": {"tensorboard": False},
}


def run_with_a_fault(kind: str, name: str) -> None:
    """Run the command line, with a fault in the process that decodes the image of this name."""
    decode = image_folder.decode_image

    def faulty(path: Path, *how: Any) -> Any:
        with Path("workers").open("a") as file:
            print(os.getpid(), file=file)
        if "/".join(path.parts[-2:]) == name:
            fail(kind)
        return decode(path, *how)

    multiprocessing.set_start_method("fork", force=True)  # so that workers inherit the fault
    patched: Any = mock.patch.object(image_folder, "decode_image", faulty)
    with patched, without_shared_memory() if kind == "no shared memory" else nullcontext():
        if kind == "batch lost":
            multiprocessing.util.register_after_fork(Queue, lose_batches)
        command_line("train", "config.yaml", "--quiet")


def without_shared_memory() -> Any:
    """Patch torch to fail in worker processes as with a full /dev/shm."""
    share, main = torch.Tensor.share_memory_, os.getpid()

    def full(tensor: torch.Tensor) -> torch.Tensor:
        if os.getpid() != main:
            raise RuntimeError(
                "unable to allocate shared memory(shm) for file </torch_1_2_3>: "
                "No space left on device (28)"
            )
        return share(tensor)

    return mock.patch.object(torch.Tensor, "share_memory_", full)


def lose_batches(_: object) -> None:
    """Make this process drop what it sends, as a queue does if pickling fails."""
    mock.patch.object(ForkingPickler, "dumps", side_effect=OSError(24, "no more files")).start()
    mock.patch.object(Queue, "_on_queue_feeder_error").start()


def fail(kind: str) -> None:
    match kind:
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raises":
            raise ZeroDivisionError("two\nlines of " + "x" * 5000)
        case "asleep":
            time.sleep(10_000)
        case "leaves":
            os._exit(0)
        case "stops":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "bus error":
            os.kill(os.getpid(), signal.SIGBUS)


def alive(pid: int) -> bool:
    """Return whether a process is running; zombies are not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def trial(number: int, folder: Path) -> None:
    random = Random(number)
    kind = KINDS[number % len(KINDS)]
    write_color_images(folder / "images", images_per_class=12)
    hangs = kind in ("asleep", "stops", "batch lost")
    data = CONFIG["data"] | ({"timeout": HANG_SECONDS} if hangs else {})
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"data": data}))
    name = f"{random.choice(('red', 'blue'))}/{random.randrange(12)}.png"
    process = ChildProcess("run", folder, run_with_a_fault, kind, name)
    workers = folder / "workers"
    try:
        if kind == "killed while idle":
            while not workers.exists() or not workers.read_text().endswith("\n"):
                assert process.running, process.err
                time.sleep(0.005)
            os.kill(int(workers.read_text().split()[0]), signal.SIGKILL)
        code = process.wait()
    finally:
        process.end()
    lines = process.err.splitlines()
    if kind == "killed while idle" and code == 0:
        return  # it had read all its images
    assert code == 1, (code, process.err)
    assert 1 <= len(lines) <= 2, process.err
    assert len(process.err) < 700, process.err
    expected = {
        "raises": "reading it failed",
        "asleep": "hangs",
        "stops": "hangs",
        "batch lost": "could not send it",
        **dict.fromkeys(SHARED, "/dev/shm: shared memory is too small"),
    }.get(kind, "died")
    assert expected in process.err, process.err
    if kind in SHARED or kind == "batch lost":
        assert ".png" not in process.err, process.err
        assert "data.workers=0" in lines[-1], process.err
    else:
        image_name = ".png" if kind == "killed while idle" else name
        assert image_name in lines[0], process.err
    deadline = time.monotonic() + 600  # never reached
    pids = {int(pid) for pid in workers.read_text().split()}
    while left := {pid for pid in pids if alive(pid)}:
        assert time.monotonic() < deadline, f"processes still running: {left}"
        time.sleep(0.05)


ROWS = [
    Row(
        "a process that reads images: killed, raising, asleep, stopped, leaving, unable to send",
        "within the timeout exit code 1, in one or two lines that name the image, or /dev/shm; "
        "no process is left",
        trial,
        pr=len(KINDS),
        release=5 * len(KINDS),
    ),
]
