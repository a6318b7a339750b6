"""Checkpoints whose saving is cut short, whose files are damaged, and that are malicious."""

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
from file_operations import watched
from PIL import Image
from processes import ChildProcess, command_line
from rows import Row
from small_runs import read_metric_lines, write_folder

from dltrain.checkpoints.loading import DamagedCheckpointError, load_checkpoint
from dltrain.checkpoints.snapshot import TENSOR_FILES, Snapshot
from dltrain.checkpoints.store import CheckpointStore
from dltrain.rundir.directory import Run


def snapshot(step: int, value: float) -> Snapshot:
    """A small one, in which every file says which save it comes from."""
    full = torch.full((4, 3), value)
    return Snapshot(
        model={"weight": full, "half": torch.full((5,), value, dtype=torch.bfloat16)},
        averaged={"weight": full / 2},
        optimizer={"main/0/weight/exp_avg": full / 4, "main/0/weight/step": torch.tensor(value)},
        rng={"torch": torch.full((8,), int(value) % 256, dtype=torch.uint8)},
        state={"step": step, "value": value},
    )


def assert_whole(found: Snapshot) -> float:
    """That all files come from one save; which one."""
    value = found.state["value"]
    wanted = snapshot(found.state["step"], value)
    for kind in ("model", "averaged", "optimizer", "rng"):
        mine, theirs = getattr(found, kind), getattr(wanted, kind)
        assert mine.keys() == theirs.keys(), kind
        assert all(torch.equal(mine[name], theirs[name]) for name in mine), kind
    return value


# -------------------------------------------------------------------------- killed while it saves


class Killed(BaseException):
    """Stands for a process that ends here: nothing after it happens."""


MOST_OPERATIONS = 50
SAVES = {"next step": 4, "the same step again": 3, "the first step": 0}


def killed_while_saving(number: int, folder: Path) -> None:
    """Operation `number` of a save, with pruning and marking, is the last of the process."""
    for kind, before in SAVES.items():
        directory = folder / kind / "run" / "checkpoints"
        checkpoints = CheckpointStore(directory, keep=2)
        directory.parent.mkdir(parents=True)
        with watched(folder, lambda *_: None):
            for step in range(1, before + 1):
                checkpoints.save(step, snapshot(step, step))
        old, step = before, before if kind == "the same step again" else before + 1
        count = 0

        def see(*_: object) -> None:
            nonlocal count
            count += 1
            if count > number:
                raise Killed

        done = True
        with watched(folder, see):
            try:
                checkpoints.save(step, snapshot(step, 100.0))
                checkpoints.mark_best(step, "val/loss", 1.0)
            except Killed:
                done = False
        assert done == (count <= number)
        assert number < MOST_OPERATIONS - 1 or done, "raise MOST_OPERATIONS: some are not tried"
        again = CheckpointStore(directory, keep=2)
        if old:
            _, found, passed_over = again.newest()
            assert not passed_over
            assert assert_whole(found) in ({100.0} if done else {float(old), 100.0})
        elif done:
            assert assert_whole(again.newest()[1]) == 100.0
        with watched(folder, lambda *_: None):
            again.save(step + 1, snapshot(step + 1, 101.0))
        assert assert_whole(again.newest()[1]) == 101.0
        assert len(again.all()) <= 3


# -------------------------------------------------------------------------------------- lost power


class Node:
    """A file or a directory: what the system shows, and what is on the disk for sure."""

    def __init__(self, is_directory: bool) -> None:
        self.is_directory = is_directory
        self.shown: bytes | dict[str, Node] = {} if is_directory else b""
        self.sure: bytes | dict[str, Node] = {} if is_directory else b""
        self.changes: list[dict[str, Node | None]] = []  # of a directory, since it was flushed

    def change(self, **entries: Node | None) -> None:
        """Some entries become others, in one operation."""
        self.changes.append(entries)
        self.shown = changed(self.shown, entries)

    def flush(self) -> None:
        """All that is shown is sure."""
        self.sure = dict(self.shown) if isinstance(self.shown, dict) else self.shown
        self.changes = []

    def after_the_cut(self, place: Path, draw: random.Random) -> None:
        """Writes what a POSIX system may show when the power is back."""
        if isinstance(self.shown, bytes):
            cut = draw.randrange(len(self.shown) + 1)
            zeros = self.shown[:cut] + bytes(len(self.shown) - cut)
            place.write_bytes(draw.choice([self.sure, self.shown, self.shown[:cut], zeros]))
            if self.shown == self.sure:
                place.write_bytes(self.shown)
            return
        entries, share = self.sure, draw.choice([0.0, 0.2, 0.5, 0.8, 1.0])
        for change in self.changes:
            if draw.random() < share:
                entries = changed(entries, change)
        place.mkdir(exist_ok=True)
        for name, node in entries.items():
            node.after_the_cut(place / name, draw)


def changed(entries, change: dict[str, Node | None]) -> dict[str, Node]:
    """A directory's entries after an operation."""
    return {name: node for name, node in {**entries, **change}.items() if node is not None}


def replayed(log: list[tuple], root: str) -> Node:
    """The folder after these operations, of which the disk need not know yet."""
    top = Node(is_directory=True)

    def at(path: str) -> Node:
        node = top
        for part in Path(path).relative_to(root).parts:
            node = node.shown[part]
        return node

    for operation, path, *rest in log:
        parent, name = at(str(Path(path).parent)) if path != root else top, Path(path).name
        match operation:
            case "open":
                if rest[0] in ("w", "x"):
                    if name in parent.shown:
                        parent.shown[name].shown = b""
                    else:
                        parent.change(**{name: Node(is_directory=False)})
            case "write":
                parent.shown[name].shown += rest[0]
            case "mkdir":
                parent.change(**{name: Node(is_directory=True)})
            case "fsync":
                at(path).flush()
            case "rename":
                assert Path(rest[0]).parent == Path(path).parent
                parent.change(**{name: None, Path(rest[0]).name: parent.shown[name]})
            case "unlink" | "rmdir":
                parent.change(**{name: None})
            case _:
                raise AssertionError(f"{operation}: what does it leave on the disk?")
    return top


POWER_CUTS = 20


def power_lost(number: int, folder: Path) -> None:
    """A few saves are recorded, and the power goes at moments of this record."""
    draw = random.Random(number)
    root = folder / "live"
    root.mkdir()
    checkpoints = CheckpointStore(root / "run" / "checkpoints", keep=draw.choice([1, 2, 3]))
    log: list[tuple] = []
    returned: list[tuple[int, int, float]] = []  # operations so far, step, value
    marked: list[tuple[int, int]] = []
    tried: dict[int, set[float]] = {}
    with watched(root, lambda *operation: log.append(operation)):
        step = 0
        for value in range(1, draw.choice([4, 6, 8])):
            step += draw.choice([0, 0, 1, 2]) if step else 1
            tried.setdefault(step, set()).add(float(value))
            checkpoints.save(step, snapshot(step, float(value)))
            returned.append((len(log), step, float(value)))
            if draw.random() < 0.4:
                checkpoints.mark_best(step, "val/loss", 1.0)
                marked.append((len(log), step))
    first = returned[0][0]
    for case in range(POWER_CUTS):
        moment = draw.randrange(first, len(log) + 1)
        place = folder / str(case)
        replayed(log[:moment], str(root)).after_the_cut(place, draw)
        _, at_least, value = [save for save in returned if save[0] <= moment][-1]
        recovered = CheckpointStore(place / "run" / "checkpoints", keep=2)
        _, found, _ = recovered.newest()
        assert found.state["step"] >= at_least, f"operation {moment}: {log[moment - 1]}"
        assert assert_whole(found) in {v for v in tried[found.state["step"]] if v >= value}
        if [mark for mark in marked if mark[0] <= moment]:
            best = recovered.best()
            assert best is not None, f"operation {moment}: {log[moment - 1]}"
            assert_whole(load_checkpoint(best))
        with watched(place, lambda *_: None):
            recovered.save(100, snapshot(100, 100.0))
        assert assert_whole(recovered.newest()[1]) == 100.0


# ---------------------------------------------------------------------------------------- disk full

ON_A_BAD_DISK = ["train.steps=6", "train.evaluate=3 steps", "checkpoint.every=2 steps"]
ON_A_BAD_DISK += ["checkpoint.keep=2", "recording.tensorboard=true", "recording.images=2"]
REFUSED = ("open", "write", "fsync", "truncate", "mkdir", "rename")


@dataclass(frozen=True)
class Refusal:
    """The disk refuses one operation, or from then on all of its kind.

    Attributes:
        error: With which error.
        events: Whether in TensorBoard's event files, which a thread writes, or in all others.
        operation: Which one, counted from 1.
        lasting: Whether the later ones too.
    """

    error: int
    events: bool
    operation: int
    lasting: bool


def refusals() -> list[Refusal]:
    """All of them, in an order in which the first few are a fair sample."""
    most = {
        (errno.ENOSPC, False): 180,
        (errno.EIO, False): 180,
        (errno.EMFILE, False): 60,
        (errno.ENOSPC, True): 110,
        (errno.EIO, True): 110,
        (errno.EMFILE, True): 60,
    }
    every = [
        Refusal(error, events, number, bool(number % 2))
        for (error, events), count in most.items()
        for number in range(1, count + 1)
    ]
    random.Random(0).shuffle(every)
    return every


REFUSALS = refusals()


def on_a_bad_disk(refusal: Refusal, *words: str) -> None:
    """A command line in a process to which the disk refuses something in `run`."""
    count = 0
    kinds = ("open",) if refusal.error == errno.EMFILE else REFUSED

    def see(operation: str, place: str, *_: object) -> None:
        nonlocal count
        if operation not in kinds or (".tfevents." in place) != refusal.events:
            return
        if operation == "mkdir" and Path(place).exists():
            return  # which no disk has to be asked for
        count += 1
        if count == refusal.operation or (count > refusal.operation and refusal.lasting):
            Path("refused").touch()
            of_a_path = [] if operation in ("write", "fsync") else [place]
            raise OSError(refusal.error, os.strerror(refusal.error), *of_a_path)

    try:
        with watched(Path("run"), see):
            command_line(*words)
    finally:
        Path("count").write_text(str(count))


@cache
def undisturbed() -> tuple[str, list[dict], dict[str, Snapshot]]:
    """The weights, the scalars and the checkpoints of a run to which nothing happens."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_folder(folder)
        words = ["train", "config.yaml", *ON_A_BAD_DISK, "checkpoint.keep=9", "--run-dir", "run"]
        started = ChildProcess("whole", folder, command_line, *words, "--quiet", "--json")
        assert started.wait() == 0, started.err
        saved = {
            path.name: load_checkpoint(path) for path in Run(folder / "run").checkpoints().all()
        }
        return json.loads(started.out)["weights_sha256"], read_metric_lines(folder / "run"), saved


def disk_refuses(number: int, folder: Path) -> None:
    """A training run that the disk refuses something; then there is space again."""
    refusal = REFUSALS[number]
    weights, scalars, saved = undisturbed()
    write_folder(folder)
    run, how = Run(Path("run")), ["--quiet", "--json"]
    words = ["train", "config.yaml", *ON_A_BAD_DISK, "--run-dir", "run", *how]
    ended = ChildProcess("first", folder, on_a_bad_disk, refusal, *words)
    code = ended.wait()
    # A refusal that costs nothing, such as to read which checkpoint is the best, when older ones
    # are to go, may be passed over: the outcome below is then that of the first process.
    if code:
        assert Path("refused").exists(), ended.err
        assert (code, ended.out) == (1, ""), ended.err
        assert 1 <= len(ended.err.splitlines()) <= 2, ended.err
        assert os.strerror(refusal.error) in ended.err
        assert not list(run.directory.rglob(".*")), "temporary files are left"
        left = run.checkpoints().all()
        for path in left:
            assert_same(load_checkpoint(path), saved[path.name])
        advised = re.search(r"dltrain ((?:train|resume) .+)$", ended.err)
        if advised:
            words = [*advised[1].split(), *how]
            assert words[0] == ("resume" if left else "train"), ended.err
        elif left:
            words = ["resume", "run", *how]
        ended = ChildProcess("again", folder, command_line, *words)
        code = ended.wait()
    assert code == 0, ended.err
    summary = json.loads(ended.out)
    assert summary["weights_sha256"] == weights
    assert read_metric_lines(Path(summary["run"])) == scalars


def assert_same(one: Snapshot, other: Snapshot) -> None:
    """But for the clock."""
    for kind in ("model", "averaged", "optimizer", "rng"):
        mine, theirs = getattr(one, kind), getattr(other, kind)
        assert mine.keys() == theirs.keys(), kind
        assert all(torch.equal(mine[name], theirs[name]) for name in mine), kind


# ------------------------------------------------------------------------ damaged, and malicious


@cache
def trained() -> tuple[Path, str]:
    """A finished run with its data, and the hash of its weights; trials copy it."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    write_folder(folder)
    words = ["train", "config.yaml", "train.ema=0.9", "--run-dir", "run", "--quiet", "--json"]
    started = ChildProcess("whole", folder, command_line, *words)
    assert started.wait() == 0, started.err
    (folder / "run" / "summary.json").unlink()  # so that there is something left to resume
    Image.new("L", (8, 8)).save(folder / "some.png")
    return folder, json.loads(started.out)["weights_sha256"]


def copy_run(folder: Path) -> Run:
    """The run of `trained`, in this folder."""
    shutil.copytree(trained()[0], folder, dirs_exist_ok=True)
    return Run(Path("run"))


def cut(path: Path, draw: random.Random) -> None:
    """The end is missing."""
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def emptied(path: Path, draw: random.Random) -> None:
    """All of it is missing."""
    path.write_bytes(b"")


def flipped(path: Path, draw: random.Random) -> None:
    """One bit is another."""
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def removed(path: Path, draw: random.Random) -> None:
    """It is gone."""
    path.unlink()


DAMAGES = [cut, emptied, flipped, removed]
DAMAGES_A_TRIAL = 10


def damaged_files(number: int, folder: Path) -> None:
    """Some file of the newest checkpoints is damaged, or two are swapped."""
    for case in range(DAMAGES_A_TRIAL):
        place = folder / str(case)
        place.mkdir()
        os.chdir(place)
        _damaged(random.Random(f"{number} {case}"), copy_run(place), in_full=case == 0)


def _damaged(draw: random.Random, run: Run, in_full: bool) -> None:
    checkpoints = run.checkpoints()
    saved, best = checkpoints.all(), checkpoints.best()
    assert len(saved) > 2
    damaged: list[Path] = []
    for path in saved[: draw.choice([1, 1, 2])]:
        file = draw.choice(sorted(path.iterdir()))
        draw.choice(DAMAGES)(file, draw)
        damaged.append(file)
    if draw.random() < 0.25:
        damaged = _swapped(draw, run, saved)
    pointer = checkpoints.directory / "best.json"
    if draw.random() < 0.5:
        draw.choice(DAMAGES[:-1])(pointer, draw)
        found, reported = tried(checkpoints.best)
        assert found == best or str(pointer) in reported
    for file in damaged:
        found, reported = tried(load_checkpoint, checkpoints.find(file.parent.name))
        assert found is None, f"{file} is damaged, and nobody noticed"
        assert file.parent.name in reported
        assert any(f.name in reported for f in damaged if f.parent == file.parent)
    names = {file.parent.name for file in damaged}
    good = next(path for path in saved if path.name not in names)
    found, _, passed_over = checkpoints.newest()
    assert found == good
    newer = [path for path in saved if path.name > good.name]
    assert len(passed_over) == len(newer)
    assert all(path.name in line for path, line in zip(newer, passed_over, strict=True))
    if in_full:
        _in_full(draw, run, damaged, good, newer)


def tried(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """What it gives, and which damage it tells of."""
    try:
        return function(*arguments), ""
    except DamagedCheckpointError as error:
        return None, str(error)


def _swapped(draw: random.Random, run: Run, saved: list[Path]) -> list[Path]:
    """Two files change places: of two checkpoints, or of one."""
    shutil.rmtree(run.directory)
    copy_run(run.directory.parent.resolve())
    name = draw.choice([path.name for path in sorted(saved[0].iterdir())])
    one, other = saved[0] / name, saved[1] / name
    if draw.random() < 0.5:
        one, other = draw.sample(sorted(saved[0].iterdir()), 2)
    before = one.read_bytes(), other.read_bytes()
    one.write_bytes(before[1])
    other.write_bytes(before[0])
    if before[0] == before[1]:
        emptied(one, draw)
        return [one]
    return [one, other]


def _in_full(
    draw: random.Random, run: Run, damaged: list[Path], good: Path, newer: list[Path]
) -> None:
    file = draw.choice(damaged)
    for command in (["evaluate", "run"], ["predict", "run", "some.png"]):
        code, out, err = in_this_process(*command, "--checkpoint", file.parent.name)
        assert (code, out) == (1, ""), err
        reported, way_on = err.splitlines()
        assert file.parent.name in reported
        assert good.name in way_on
    code, out, err = in_this_process("resume", "run", "--json")
    assert code == 0, err
    assert f"resuming from {good}" in err
    for path in newer:
        assert path.name in err
    assert json.loads(out)["weights_sha256"] == trained()[1]


def in_this_process(*words: object) -> tuple[int, str, str]:
    """A command line's exit code, output and errors."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with mock.patch.object(sys, "argv", ["dltrain"]), redirect_stdout(out), redirect_stderr(err):
        try:
            command_line(*words)
        except SystemExit as ended:
            code = ended.code
    return int(code or 0), out.getvalue(), err.getvalue()


class Evil:
    """Unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, (str(Path.home() / "ran"),)


def safetensors_file(header: object, data: int = 8, length: int | None = None) -> bytes:
    """A file with this header, and so many bytes after it."""
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(written) if length is None else length
    return size.to_bytes(8, "little") + written + bytes(data)


def hostile_files() -> dict[str, bytes]:
    """What a stranger may have put in the place of a safetensors file."""
    files = {f"pickle {n}": pickle.dumps(Evil(), n) for n in range(pickle.HIGHEST_PROTOCOL + 1)}
    for kind, modern in (("zip", True), ("legacy", False)):
        for what, content in (("object", Evil()), ("state_dict", {"weight": Evil()})):
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
        "a dimension that is no int64": {"shape": [0, 2**63], "data_offsets": [0, 0]},
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
    "a spec that is none": b'{"spec": {"inputs": 3}}',
    "a step that is a word": b'{"step": "ten", "files": {}}',
    "files elsewhere": b'{"step": 10, "files": {"../../config.yaml": {"bytes": 0, "sha256": ""}}}',
    "huge number": b'{"step": 1' + b"0" * 10_000 + b"}",
}
HOSTILE_PLACES = [*(f"{name}.safetensors" for name in TENSOR_FILES), "state.json", "manifest.json"]
FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")


def malicious_files(number: int, folder: Path) -> None:
    """Every hostile content in one place of a checkpoint, for every verb that reads one."""
    copy_run(folder)
    child = ChildProcess("child", folder, _read_malicious_files, HOSTILE_PLACES[number])
    assert child.wait() == 0, child.err
    broken = json.loads(child.out)
    assert not broken, "\n".join(broken)


def _read_malicious_files(place: str) -> None:
    """Prints what was not refused, or not well."""
    heard: list[str] = []
    home = Path.cwd()
    os.environ["HOME"] = str(home)
    sys.addaudithook(lambda event, _: heard.append(event) if event in FORBIDDEN else None)
    pickle.loads(pickle.dumps(Path))
    assert heard == ["pickle.find_class"], "the hook hears nothing"
    heard.clear()
    broken = []
    run = Run(Path("run"))
    path, *others = run.checkpoints().all()
    for other in others:  # else there is one to fall back to
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
            lines = 3 if verb[0] == "resume" else 2  # the way on is a line of its own
            named = path.name in err if verb[0] != "import" else "some.pt" in err
            if (code, out) != (1, "") or len(err.splitlines()) > lines or not named or heard:
                broken.append(f"{name}: {verb[0]}: {code} {out} {err} {heard}")
            heard.clear()
    if (home / "ran").exists():
        broken.append("code ran")
    print(json.dumps(broken))


ROWS = [
    Row(
        name="killed at each file operation of a save",
        promise="the old or the new checkpoint loads, and later saves succeed",
        trial=killed_while_saving,
        pr=MOST_OPERATIONS,
        release=MOST_OPERATIONS,
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
        trial=disk_refuses,
        pr=12,
        release=len(REFUSALS),
    ),
    Row(
        name="damaged checkpoint files",
        promise="always detected and named; resume uses the newest valid one and reports it, a "
        "damaged checkpoint requested by name is refused",
        trial=damaged_files,
        pr=10,
        release=130,
        cases=DAMAGES_A_TRIAL,
    ),
    Row(
        name="malicious files",
        promise="refused by every command, and no code runs",
        trial=malicious_files,
        pr=len(HOSTILE_PLACES),
        release=len(HOSTILE_PLACES),
        cases=len(HOSTILE_JSON),
    ),
]
