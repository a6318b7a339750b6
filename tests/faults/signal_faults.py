"""Processes that are killed or interrupted at random times."""

from __future__ import annotations

import json
import random
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import yaml
from processes import ChildProcess, command_line, processes_in_folder, wait_until_all_exit
from rows import Row, assert_within
from run_outcomes import differences, outcome
from small_data import write_color_images, write_images

COMMON = {
    "seed": 5,
    "schedule": {"name": "one_cycle", "warmup": 0.3},
    "checkpoint": {"every": "7 steps", "keep": 2},
    "recording": {"log_every": 3, "images": 4},
}
TRAIN = {"micro_batch": 7, "ema": 0.9, "clip_norm": 1.0, "device": "cpu"}
AUGMENT = {"shift": 2, "rotate": 10, "flip": True, "cutout": 3}
CLASSIFIER = {
    "model": {"name": "cnn", "channels": [4], "dropout": 0.3},
    "loss": {"name": "cross_entropy", "label_smoothing": 0.1},
    "optimizer": {"name": "adamw", "lr": 0.01},
    "metrics": ["accuracy", "auroc"],
    "train": {**TRAIN, "steps": 120, "batch_size": 16, "evaluate": "25 steps"},
}
KINDS = {
    "in-memory images": {
        **CLASSIFIER,
        "data": {"name": "idx", "root": "images", "validation": 30, "augment": AUGMENT},
    },
    "streamed images, 2 workers": {
        **CLASSIFIER,
        "data": {
            "name": "image_folder",
            "root": "my_images",
            "size": 12,
            "workers": 2,
            "augment": AUGMENT,
        },
        "train": {**TRAIN, "steps": 60, "batch_size": 4, "evaluate": "20 steps"},
    },
    "LSTM": {
        "model": {"name": "text_lstm", "hidden_size": 8, "dropout": 0.3},
        "data": {"name": "toy_text", "samples": 300},
        "loss": "cross_entropy",
        "optimizer": {"name": "adamw", "lr": 0.01},
        "metrics": ["accuracy"],
        "train": {**TRAIN, "steps": 80, "batch_size": 16, "evaluate": "30 steps"},
    },
    "GAN": {
        "task": "gan",
        "model": {"name": "dcgan", "latent": 4, "channels": [6, 4], "dropout": 0.3},
        "data": {"name": "idx", "root": "images", "validation": 30, "augment": AUGMENT},
        "loss": "wasserstein",
        "optimizer": {"name": "adam", "lr": 0.003, "betas": [0.0, 0.9]},
        "phases": {"discriminator": {"optimizer": {"lr": 0.006}}},
        "train": {**TRAIN, "steps": 60, "batch_size": 16, "evaluate": "20 steps"},
    },
}


def prepare(folder: Path, kind: str) -> None:
    """Write the data and `config.yaml` of a run of this kind."""
    write_images(folder / "images", train=133, test=40, side=8, classes=3)
    write_color_images(folder / "my_images", 20)
    (folder / "config.yaml").write_text(yaml.safe_dump({**COMMON, **KINDS[kind]}))


def start(folder: Path, name: str, *words: object) -> ChildProcess:
    """Start a command line in a new process."""
    return ChildProcess(name, folder, command_line, *words, "--quiet", environment=ONE_THREAD)


ONE_THREAD = {"OMP_NUM_THREADS": "1"}
TRAIN_COMMAND = ("train", "config.yaml", "--run-dir", "run")


@cache
def uninterrupted(kind: str) -> tuple[dict, float]:
    """Return the outcome of a run of this kind, and its duration in seconds."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder, kind)
        started = time.monotonic()
        process = start(folder, "whole", *TRAIN_COMMAND)
        assert process.wait() == 0, process.err
        return outcome(folder / "run"), time.monotonic() - started


def resume_or_restart(folder: Path, name: str) -> ChildProcess:
    """Resume the run, or restart it if it has no checkpoint."""
    if any((folder / "run" / "checkpoints").glob("step-*")):
        return start(folder, name, "resume", "run")
    shutil.rmtree(folder / "run", ignore_errors=True)
    return start(folder, name, *TRAIN_COMMAND)


def killed(number: int, folder: Path) -> None:
    """Send SIGKILL one to three times, then finish the run."""
    chance, kind = random.Random(number), list(KINDS)[number % len(KINDS)]
    expected, seconds = uninterrupted(kind)
    prepare(folder, kind)
    others = processes_in_folder(folder)
    for kill in range(1 + number // len(KINDS) % 3):
        process = resume_or_restart(folder, f"kill-{kill}")
        time.sleep(chance.uniform(0.2, 1.0) * seconds)
        process.end()
    process = resume_or_restart(folder, "last")
    assert process.wait() == 0, process.err
    assert not differences(folder / "run", expected)
    wait_until_all_exit(folder, except_for=others)


def interrupted(number: int, folder: Path) -> None:
    """Send SIGINT or SIGTERM at a random time, and twice in odd trials; then finish the run."""
    chance, kind = random.Random(number), list(KINDS)[number % len(KINDS)]
    expected, seconds = uninterrupted(kind)
    prepare(folder, kind)
    others = processes_in_folder(folder)
    which = chance.choice([signal.SIGINT, signal.SIGTERM])
    process = start(folder, "interrupted", *TRAIN_COMMAND)
    metrics = folder / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):  # training has begun
        assert process.running, process.err
        time.sleep(0.005)
    time.sleep(chance.uniform(0.0, 0.4) * seconds)
    with suppress(ProcessLookupError):  # it has exited
        process.signal(which)
        if number % 2:
            time.sleep(chance.uniform(0.0, 0.02))
            process.signal(which)
    sent = time.monotonic()
    code = process.wait()
    assert_within(time.monotonic() - sent, 10)
    assert "Traceback" not in process.err, process.err
    # The first signal interrupts: 128 + N. A second one ends the process by the signal itself.
    assert code in (0, 128 + which, -which), process.err
    if code == 128 + which:
        summary = json.loads((folder / "run" / "summary.json").read_text())
        assert summary["status"] in (
            "stopped",
            "done",
        )  # done: the signal arrived while the process exited
        newest = max((folder / "run" / "checkpoints").glob("step-*")).name
        assert newest == f"step-{summary['step']:010d}", "the checkpoint is not of the last step"
    process = resume_or_restart(folder, "last")
    assert process.wait() == 0, process.err
    assert not differences(folder / "run", expected)
    wait_until_all_exit(folder, except_for=others)


ROWS = [
    Row(
        "SIGKILL at random times, 1 to 3 in a run",
        "the resumed run is bitwise identical to the uninterrupted one, in TensorBoard too; no "
        "process is left",
        killed,
        pr=12,
        release=200,
    ),
    Row(
        "SIGINT or SIGTERM at random times, once or twice in a row",
        "exit within 10 s with a checkpoint of the last step; a second signal ends it at once; "
        "resume is bit-exact",
        interrupted,
        pr=10,
        release=50,
    ),
]
