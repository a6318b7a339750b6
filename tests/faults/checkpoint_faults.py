"""Checkpoints: interrupted saves, lost power, a full disk, damaged and malicious files."""

from __future__ import annotations

import atexit
import errno
import hashlib
import io
import json
import os
import pickle
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from file_operations import intercept_file_operations
from PIL import Image
from processes import ChildProcess, command_line
from rows import Row
from small_runs import read_metric_lines, write_folder

from dltrain.checkpoints.loading import DamagedCheckpointError, load_checkpoint
from dltrain.checkpoints.snapshot import TENSOR_FILES, Snapshot
from dltrain.checkpoints.store import CheckpointStore
from dltrain.rundir.directory import Run


def snapshot(step: int, value: float) -> Snapshot:
    """Build a small snapshot in which each file identifies its save by a value."""
    full = torch.full((4, 3), value)
    return Snapshot(
        model={"weight": full, "half": torch.full((5,), value, dtype=torch.bfloat16)},
        averaged={"weight": full / 2},
        optimizer={"main/0/weight/exp_avg": full / 4, "main/0/weight/step": torch.tensor(value)},
        rng={"torch": torch.full((8,), int(value) % 256, dtype=torch.uint8)},
        state={"step": step, "value": value},
    )


def assert_consistent(found: Snapshot) -> float:
    """Assert that all files come from one save, and return the value of that save."""
    value = found.state["value"]
    expected = snapshot(found.state["step"], value)
    for kind in ("model", "averaged", "optimizer", "rng"):
        mine, theirs = getattr(found, kind), getattr(expected, kind)
        assert mine.keys() == theirs.keys(), kind
        assert all(torch.equal(mine[name], theirs[name]) for name in mine), kind
    return value


# -------------------------------------------------------------------- killed during a save


class Killed(BaseException):
    """Simulated end of the process: no later operation takes place."""


MAX_OPERATIONS = 50
SAVES = {"next step": 4, "the same step again": 3, "the first step": 0}


def killed_while_saving(number: int, folder: Path) -> None:
    """Kill the process after operation `number` of a save, including pruning and marking."""
    for kind, before in SAVES.items():
        directory = folder / kind / "run" / "checkpoints"
        checkpoints = CheckpointStore(directory, keep=2)
        directory.parent.mkdir(parents=True)
        with intercept_file_operations(folder, lambda *_: None):
            for step in range(1, before + 1):
                checkpoints.save(step, snapshot(step, step))
        old, step = before, before if kind == "the same step again" else before + 1
        count = 0

        def callback(*_: object) -> None:
            nonlocal count
            count += 1
            if count > number:
                raise Killed

        done = True
        with intercept_file_operations(folder, callback):
            try:
                checkpoints.save(step, snapshot(step, 100.0))
                checkpoints.mark_best(step, "val/loss", 1.0)
            except Killed:
                done = False
        assert done == (count <= number)
        assert number < MAX_OPERATIONS - 1 or done, "increase MAX_OPERATIONS"
        again = CheckpointStore(directory, keep=2)
        if old:
            _, found, skipped = again.newest()
            assert not skipped
            assert assert_consistent(found) in ({100.0} if done else {float(old), 100.0})
        elif done:
            assert assert_consistent(again.newest()[1]) == 100.0
        with intercept_file_operations(folder, lambda *_: None):
            again.save(step + 1, snapshot(step + 1, 101.0))
        assert assert_consistent(again.newest()[1]) == 101.0
        assert len(again.all()) <= 3


# -------------------------------------------------------------------------------- lost power


class Node:
    """A file or directory: its visible content, and the content known to be on the disk."""

    def __init__(self, is_directory: bool) -> None:
        self.is_directory = is_directory
        self.visible: bytes | dict[str, Node] = {} if is_directory else b""
        self.durable: bytes | dict[str, Node] = {} if is_directory else b""
        self.changes: list[dict[str, Node | None]] = []  # of a directory, since its last flush

    def change(self, **entries: Node | None) -> None:
        """Change entries in one atomic operation; None removes an entry."""
        self.changes.append(entries)
        self.visible = apply_change(self.visible, entries)

    def flush(self) -> None:
        """Make the visible content durable."""
        self.durable = dict(self.visible) if isinstance(self.visible, dict) else self.visible
        self.changes = []

    def write_after_power_cut(self, place: Path, draw: random.Random) -> None:
        """Write a state that a POSIX file system may have after a power cut."""
        if isinstance(self.visible, bytes):
            cut = draw.randrange(len(self.visible) + 1)
            zeros = self.visible[:cut] + bytes(len(self.visible) - cut)
            place.write_bytes(draw.choice([self.durable, self.visible, self.visible[:cut], zeros]))
            if self.visible == self.durable:
                place.write_bytes(self.visible)
            return
        entries, fraction = self.durable, draw.choice([0.0, 0.2, 0.5, 0.8, 1.0])
        for change in self.changes:
            if draw.random() < fraction:
                entries = apply_change(entries, change)
        place.mkdir(exist_ok=True)
        for name, node in entries.items():
            node.write_after_power_cut(place / name, draw)


def apply_change(entries, change: dict[str, Node | None]) -> dict[str, Node]:
    """Return the entries of a directory after an operation."""
    return {name: node for name, node in {**entries, **change}.items() if node is not None}


def replay(log: list[tuple], root: str) -> Node:
    """Return the folder after these operations, which need not be durable."""
    top = Node(is_directory=True)

    def at(path: str) -> Node:
        node = top
        for part in Path(path).relative_to(root).parts:
            node = node.visible[part]
        return node

    for operation, path, *rest in log:
        parent, name = at(str(Path(path).parent)) if path != root else top, Path(path).name
        match operation:
            case "open":
                if rest[0] in ("w", "x"):
                    if name in parent.visible:
                        parent.visible[name].visible = b""
                    else:
                        parent.change(**{name: Node(is_directory=False)})
            case "write":
                parent.visible[name].visible += rest[0]
            case "mkdir":
                parent.change(**{name: Node(is_directory=True)})
            case "fsync":
                at(path).flush()
            case "rename":
                assert Path(rest[0]).parent == Path(path).parent
                parent.change(**{name: None, Path(rest[0]).name: parent.visible[name]})
            case "unlink" | "rmdir":
                parent.change(**{name: None})
            case _:
                raise AssertionError(f"unexpected operation: {operation}")
    return top


POWER_CUTS = 20


def power_lost(number: int, folder: Path) -> None:
    """Record the operations of several saves, then cut the power after random ones."""
    draw = random.Random(number)
    root = folder / "live"
    root.mkdir()
    checkpoints = CheckpointStore(root / "run" / "checkpoints", keep=draw.choice([1, 2, 3]))
    log: list[tuple] = []
    returned: list[tuple[int, int, float]] = []  # number of operations, step, value
    marked: list[tuple[int, int]] = []
    attempted: dict[int, set[float]] = {}
    with intercept_file_operations(root, lambda *operation: log.append(operation)):
        step = 0
        for value in range(1, draw.choice([4, 6, 8])):
            step += draw.choice([0, 0, 1, 2]) if step else 1
            attempted.setdefault(step, set()).add(float(value))
            checkpoints.save(step, snapshot(step, float(value)))
            returned.append((len(log), step, float(value)))
            if draw.random() < 0.4:
                checkpoints.mark_best(step, "val/loss", 1.0)
                marked.append((len(log), step))
    first = returned[0][0]
    for case in range(POWER_CUTS):
        moment = draw.randrange(first, len(log) + 1)
        place = folder / str(case)
        replay(log[:moment], str(root)).write_after_power_cut(place, draw)
        _, at_least, value = [save for save in returned if save[0] <= moment][-1]
        recovered = CheckpointStore(place / "run" / "checkpoints", keep=2)
        _, found, _ = recovered.newest()
        assert found.state["step"] >= at_least, f"operation {moment}: {log[moment - 1]}"
        assert assert_consistent(found) in {v for v in attempted[found.state["step"]] if v >= value}
        if [mark for mark in marked if mark[0] <= moment]:
            best = recovered.best()
            assert best is not None, f"operation {moment}: {log[moment - 1]}"
            assert_consistent(load_checkpoint(best))
        with intercept_file_operations(place, lambda *_: None):
            recovered.save(100, snapshot(100, 100.0))
        assert assert_consistent(recovered.newest()[1]) == 100.0


# --------------------------------------------------------------------------------- disk full

OVERRIDES = ["train.steps=6", "train.evaluate=3 steps", "checkpoint.every=2 steps"]
OVERRIDES += ["checkpoint.keep=2", "recording.tensorboard=true", "recording.images=2"]
FAILING_OPERATIONS = ("open", "write", "fsync", "truncate", "mkdir", "rename")


@dataclass(frozen=True)
class DiskError:
    """A file operation that fails.

    Attributes:
        error: Error number.
        events: Whether it concerns TensorBoard's event files, which a thread writes, or all others.
        operation: Number of the failing operation, counted from 1.
        lasting: Whether all later operations fail too.
    """

    error: int
    events: bool
    operation: int
    lasting: bool


def disk_errors() -> list[DiskError]:
    """Return all disk errors, shuffled so that the first ones are a representative sample."""
    counts = {
        (errno.ENOSPC, False): 180,
        (errno.EIO, False): 180,
        (errno.EMFILE, False): 60,
        (errno.ENOSPC, True): 110,
        (errno.EIO, True): 110,
        (errno.EMFILE, True): 60,
    }
    every = [
        DiskError(error, events, number, bool(number % 2))
        for (error, events), count in counts.items()
        for number in range(1, count + 1)
    ]
    random.Random(0).shuffle(every)
    return every


DISK_ERRORS = disk_errors()


def run_with_disk_error(fault: DiskError, *words: str) -> None:
    """Run a command line with a disk error in the folder `run`."""
    count = 0
    kinds = ("open",) if fault.error == errno.EMFILE else FAILING_OPERATIONS

    def callback(operation: str, place: str, *_: object) -> None:
        nonlocal count
        if operation not in kinds or (".tfevents." in place) != fault.events:
            return
        if operation == "mkdir" and Path(place).exists():
            return  # no disk operation
        count += 1
        if count == fault.operation or (count > fault.operation and fault.lasting):
            Path("failed").touch()
            path = [] if operation in ("write", "fsync") else [place]
            raise OSError(fault.error, os.strerror(fault.error), *path)

    try:
        with intercept_file_operations(Path("run"), callback):
            command_line(*words)
    finally:
        Path("count").write_text(str(count))


@cache
def undisturbed_run() -> tuple[str, list[dict], dict[str, Snapshot]]:
    """Return the weight hash, scalars and checkpoints of a run without faults."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_folder(folder)
        words = ["train", "config.yaml", *OVERRIDES, "checkpoint.keep=9", "--run-dir", "run"]
        started = ChildProcess("whole", folder, command_line, *words, "--quiet", "--json")
        assert started.wait() == 0, started.err
        saved = {
            path.name: load_checkpoint(path) for path in Run(folder / "run").checkpoints().all()
        }
        return json.loads(started.out)["weights_sha256"], read_metric_lines(folder / "run"), saved


def disk_fails(number: int, folder: Path) -> None:
    """Train with a disk error, then resume or restart without it."""
    fault = DISK_ERRORS[number]
    weights, scalars, saved = undisturbed_run()
    write_folder(folder)
    run, how = Run(Path("run")), ["--quiet", "--json"]
    words = ["train", "config.yaml", *OVERRIDES, "--run-dir", "run", *how]
    ended = ChildProcess("first", folder, run_with_disk_error, fault, *words)
    code = ended.wait()
    # The run may ignore an error without consequences, such as one that occurs when it reads which
    # checkpoint is the best before it deletes others; the outcome is then that of this process.
    if code:
        assert Path("failed").exists(), ended.err
        assert (code, ended.out) == (1, ""), ended.err
        assert 1 <= len(ended.err.splitlines()) <= 2, ended.err
        assert os.strerror(fault.error) in ended.err
        assert not list(run.directory.rglob(".*")), "leftover temporary files"
        left = run.checkpoints().all()
        for path in left:
            assert_equal_snapshots(load_checkpoint(path), saved[path.name])
        suggested = re.search(r"dltrain ((?:train|resume) .+)$", ended.err)
        if suggested:
            words = [*suggested[1].split(), *how]
            assert words[0] == ("resume" if left else "train"), ended.err
        elif left:
            words = ["resume", "run", *how]
        ended = ChildProcess("again", folder, command_line, *words)
        code = ended.wait()
    assert code == 0, ended.err
    summary = json.loads(ended.out)
    assert summary["weights_sha256"] == weights
    assert read_metric_lines(Path(summary["run"])) == scalars


def assert_equal_snapshots(one: Snapshot, other: Snapshot) -> None:
    """Assert that all tensors of two snapshots are equal."""
    for kind in ("model", "averaged", "optimizer", "rng"):
        mine, theirs = getattr(one, kind), getattr(other, kind)
        assert mine.keys() == theirs.keys(), kind
        assert all(torch.equal(mine[name], theirs[name]) for name in mine), kind


# ----------------------------------------------------------------- damaged and malicious files


@cache
def trained() -> tuple[Path, str]:
    """Return the folder of a finished run with its data, and the hash of its weights."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    write_folder(folder)
    words = ["train", "config.yaml", "train.ema=0.9", "--run-dir", "run", "--quiet", "--json"]
    started = ChildProcess("whole", folder, command_line, *words)
    assert started.wait() == 0, started.err
    (folder / "run" / "summary.json").unlink()  # so that there is something left to resume
    Image.new("L", (8, 8)).save(folder / "some.png")
    return folder, json.loads(started.out)["weights_sha256"]


def copy_trained_run(folder: Path) -> Run:
    """Copy the run of `trained` to this folder."""
    shutil.copytree(trained()[0], folder, dirs_exist_ok=True)
    return Run(Path("run"))


def truncate(path: Path, draw: random.Random) -> None:
    """Cut the file at a random position."""
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def clear(path: Path, draw: random.Random) -> None:
    """Remove the content."""
    path.write_bytes(b"")


def flip_bit(path: Path, draw: random.Random) -> None:
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def remove(path: Path, draw: random.Random) -> None:
    """Delete the file."""
    path.unlink()


DAMAGES = [truncate, clear, flip_bit, remove]
DAMAGES_PER_TRIAL = 10


def damaged_files(number: int, folder: Path) -> None:
    """Damage files of the newest checkpoints, or swap two of them."""
    for case in range(DAMAGES_PER_TRIAL):
        place = folder / str(case)
        place.mkdir()
        os.chdir(place)
        _damage_and_load(random.Random(f"{number} {case}"), copy_trained_run(place), full=case == 0)


def _damage_and_load(draw: random.Random, run: Run, full: bool) -> None:
    checkpoints = run.checkpoints()
    saved, best = checkpoints.all(), checkpoints.best()
    assert len(saved) > 2
    damaged: list[Path] = []
    for path in saved[: draw.choice([1, 1, 2])]:
        file = draw.choice(sorted(path.iterdir()))
        draw.choice(DAMAGES)(file, draw)
        damaged.append(file)
    if draw.random() < 0.25:
        damaged = _swap_files(draw, run, saved)
    pointer = checkpoints.directory / "best.json"
    if draw.random() < 0.5:
        draw.choice(DAMAGES[:-1])(pointer, draw)
        found, message = attempt(checkpoints.best)
        assert found == best or str(pointer) in message
    for file in damaged:
        found, message = attempt(load_checkpoint, checkpoints.find(file.parent.name))
        assert found is None, f"damage of {file} was not detected"
        assert file.parent.name in message
        assert any(f.name in message for f in damaged if f.parent == file.parent)
    names = {file.parent.name for file in damaged}
    good = next(path for path in saved if path.name not in names)
    found, _, skipped = checkpoints.newest()
    assert found == good
    newer = [path for path in saved if path.name > good.name]
    assert len(skipped) == len(newer)
    assert all(path.name in line for path, line in zip(newer, skipped, strict=True))
    if full:
        _check_commands(draw, run, damaged, good, newer)


def attempt(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """Return the result of a function, and the message if it reports damage."""
    try:
        return function(*arguments), ""
    except DamagedCheckpointError as error:
        return None, str(error)


def _swap_files(draw: random.Random, run: Run, saved: list[Path]) -> list[Path]:
    """Swap two files, of two checkpoints or of one."""
    shutil.rmtree(run.directory)
    copy_trained_run(run.directory.parent.resolve())
    name = draw.choice([path.name for path in sorted(saved[0].iterdir())])
    one, other = saved[0] / name, saved[1] / name
    if draw.random() < 0.5:
        one, other = draw.sample(sorted(saved[0].iterdir()), 2)
    before = one.read_bytes(), other.read_bytes()
    one.write_bytes(before[1])
    other.write_bytes(before[0])
    if before[0] == before[1]:
        clear(one, draw)
        return [one]
    return [one, other]


def _check_commands(
    draw: random.Random, run: Run, damaged: list[Path], good: Path, newer: list[Path]
) -> None:
    file = draw.choice(damaged)
    for command in (["evaluate", "run"], ["predict", "run", "some.png"]):
        code, out, err = in_this_process(*command, "--checkpoint", file.parent.name)
        assert (code, out) == (1, ""), err
        message, next_step = err.splitlines()
        assert file.parent.name in message
        assert good.name in next_step
    code, out, err = in_this_process("resume", "run", "--json")
    assert code == 0, err
    assert f"resuming from {good}" in err
    for path in newer:
        assert path.name in err
    assert json.loads(out)["weights_sha256"] == trained()[1]


def in_this_process(*words: object) -> tuple[int, str, str]:
    """Run a command line and return its exit code, standard output and standard error."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with mock.patch.object(sys, "argv", ["dltrain"]), redirect_stdout(out), redirect_stderr(err):
        try:
            command_line(*words)
        except SystemExit as error:
            code = error.code
    return int(code or 0), out.getvalue(), err.getvalue()


class Malicious:
    """An object that creates a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (str(Path.home() / "ran"),)


def safetensors_file(header: object, data: int = 8, length: int | None = None) -> bytes:
    """Return a file with this header, followed by `data` zero bytes."""
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(written) if length is None else length
    return size.to_bytes(8, "little") + written + bytes(data)


def hostile_files() -> dict[str, bytes]:
    """Return malicious contents of a safetensors file by name."""
    files = {
        f"pickle {n}": pickle.dumps(Malicious(), n) for n in range(pickle.HIGHEST_PROTOCOL + 1)
    }
    for kind, modern in (("zip", True), ("legacy", False)):
        for what, content in (("object", Malicious()), ("state_dict", {"weight": Malicious()})):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=modern)
            files[f"torch.save, {kind}, {what}"] = buffer.getvalue()
    good = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    text = json.dumps(good).encode()
    for length in (0, 1, 200, 2**31, 2**40, 2**63 - 1, 2**64 - 1):
        files[f"header of {length} bytes"] = safetensors_file({"a": good}, length=length)
    for name, entry in {
        "a shape below zero": {"shape": [-2]},
        "shapes below zero": {"shape": [-1, -2]},
        "a huge shape": {"shape": [2**62, 4]},
        "a huge shape with nothing in it": {"shape": [2**32, 2**32], "data_offsets": [0, 0]},
        "a huge empty shape": {"shape": [0, 2**62, 2**62], "data_offsets": [0, 0]},
        "a dimension that exceeds int64": {"shape": [0, 2**63], "data_offsets": [0, 0]},
        "a fractional shape": {"shape": [2.0]},
        "another shape": {"shape": [3]},
        "an unknown dtype": {"dtype": "PICKLE"},
        "a dtype that torch lacks": {"dtype": "F4", "shape": [16]},
        "offsets out of range": {"data_offsets": [0, 2**40]},
        "offsets in the wrong order": {"data_offsets": [8, 0]},
        "offsets below zero": {"data_offsets": [-8, 0]},
    }.items():
        files[name] = safetensors_file({"a": {**good, **entry}}, 0 if "empty" in name else 8)
    overlapping = {"a": good, "b": {**good, "data_offsets": [4, 12]}}
    return files | {
        "empty": b"",
        "overlapping tensors": safetensors_file(overlapping, 12),
        "tensors in one place": safetensors_file({"a": good, "b": good}),
        "a hole": safetensors_file({"a": {**good, "data_offsets": [4, 12]}}, 12),
        "more than the tensors": safetensors_file({"a": good}, 12),
        "a name twice": safetensors_file(b'{"a":' + text + b',"a":' + text + b"}"),
        "a list": safetensors_file([]),
        "deep objects": safetensors_file(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        "deep lists": safetensors_file(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "no UTF-8": safetensors_file(b'{"\xff":1}'),
    }


HOSTILE_JSON = {
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "a list": b"[]",
    "a number": b"1",
    "nothing": b"{}",
    "an invalid spec": b'{"spec": {"inputs": 3}}',
    "a step that is text": b'{"step": "ten", "files": {}}',
    "files elsewhere": b'{"step": 10, "files": {"../../config.yaml": {"bytes": 0, "sha256": ""}}}',
    "huge number": b'{"step": 1' + b"0" * 10_000 + b"}",
}
HOSTILE_PATHS = [*(f"{name}.safetensors" for name in TENSOR_FILES), "state.json", "manifest.json"]
FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")


def malicious_files(number: int, folder: Path) -> None:
    """Replace one file of a checkpoint by each hostile content, and run every command on it."""
    copy_trained_run(folder)
    child = ChildProcess("child", folder, _read_malicious_files, HOSTILE_PATHS[number])
    assert child.wait() == 0, child.err
    broken = json.loads(child.out)
    assert not broken, "\n".join(broken)


def _read_malicious_files(place: str) -> None:
    """Print, as JSON, what was accepted or refused with a bad message."""
    audited: list[str] = []
    home = Path.cwd()
    os.environ["HOME"] = str(home)
    sys.addaudithook(lambda event, _: audited.append(event) if event in FORBIDDEN else None)
    pickle.loads(pickle.dumps(Path))
    assert audited == ["pickle.find_class"], "the audit hook is not called"
    audited.clear()
    broken = []
    run = Run(Path("run"))
    path, *others = run.checkpoints().all()
    for other in others:  # otherwise an older checkpoint would be used
        shutil.rmtree(other)
    (path.parent / "best.json").unlink()
    verbs = [["evaluate", "run"], ["predict", "run", "some.png"], ["sample", "run"]]
    verbs += [["resume", "run"]]
    for name, content in (hostile_files() if "safetensors" in place else HOSTILE_JSON).items():
        (path / place).write_bytes(content)
        if place != "manifest.json":
            manifest = json.loads((path / "manifest.json").read_text())
            sha256 = hashlib.sha256(content).hexdigest()
            manifest["files"][place] = {"bytes": len(content), "sha256": sha256}
            (path / "manifest.json").write_text(json.dumps(manifest))
        Path("some.pt").write_bytes(content)
        for verb in [*verbs, ["import", "some.pt"]]:
            try:
                code, out, err = in_this_process(*verb)
            except Exception as error:  # reported below
                code, out, err = 1, "", f"{type(error).__name__}: {error}\n  is a traceback"
            lines = 3 if verb[0] == "resume" else 2  # the suggested command is on a line of its own
            named = path.name in err if verb[0] != "import" else "some.pt" in err
            if (code, out) != (1, "") or len(err.splitlines()) > lines or not named or audited:
                broken.append(f"{name}: {verb[0]}: {code} {out} {err} {audited}")
            audited.clear()
    if (home / "ran").exists():
        broken.append("code ran")
    print(json.dumps(broken))


ROWS = [
    Row(
        name="killed at each file operation of a save",
        promise="the old or the new checkpoint loads, and later saves succeed",
        trial=killed_while_saving,
        pr=MAX_OPERATIONS,
        release=MAX_OPERATIONS,
        cases=len(SAVES),
    ),
    Row(
        name="lost power",
        promise="the newest completed save, or a newer one, loads",
        trial=power_lost,
        pr=5,
        release=25,
        cases=POWER_CUTS,
    ),
    Row(
        name="disk full",
        promise="earlier checkpoints untouched, no leftover files, one or two lines, exit code 1; "
        "with free space again, the results are those of an undisturbed run",
        trial=disk_fails,
        pr=12,
        release=len(DISK_ERRORS),
    ),
    Row(
        name="damaged checkpoint files",
        promise="always detected and named; resume uses the newest valid one and reports it, a "
        "damaged checkpoint requested by name is refused",
        trial=damaged_files,
        pr=10,
        release=130,
        cases=DAMAGES_PER_TRIAL,
    ),
    Row(
        name="malicious files",
        promise="refused by every command, and no code runs",
        trial=malicious_files,
        pr=len(HOSTILE_PATHS),
        release=len(HOSTILE_PATHS),
        cases=len(HOSTILE_JSON),
    ),
]
