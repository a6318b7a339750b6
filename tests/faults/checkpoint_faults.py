"""Checkpoints whose saving is cut short, whose files are damaged, and that are malicious."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from file_operations import watched
from processes import Started, command_line
from rows import Row
from small_runs import recorded, write_folder

from dltrain.checkpoint import Checkpoints, Snapshot, load
from dltrain.run import Run


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
        checkpoints = Checkpoints(directory, keep=2)
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
        again = Checkpoints(directory, keep=2)
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
                if rest[0] == "w":
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
    checkpoints = Checkpoints(root / "run" / "checkpoints", keep=draw.choice([1, 2, 3]))
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
        recovered = Checkpoints(place / "run" / "checkpoints", keep=2)
        _, found, _ = recovered.newest()
        assert found.state["step"] >= at_least, f"operation {moment}: {log[moment - 1]}"
        assert assert_whole(found) in {v for v in tried[found.state["step"]] if v >= value}
        if [mark for mark in marked if mark[0] <= moment]:
            best = recovered.best()
            assert best is not None, f"operation {moment}: {log[moment - 1]}"
            assert_whole(load(best))
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
        started = Started("whole", folder, command_line, *words, "--quiet", "--json")
        assert started.wait() == 0, started.err
        saved = {path.name: load(path) for path in Run(folder / "run").checkpoints().all()}
        return json.loads(started.out)["weights_sha256"], recorded(folder / "run"), saved


def disk_refuses(number: int, folder: Path) -> None:
    """A training run that the disk refuses something; then there is space again."""
    refusal = REFUSALS[number]
    weights, scalars, saved = undisturbed()
    write_folder(folder)
    run, how = Run(Path("run")), ["--quiet", "--json"]
    words = ["train", "config.yaml", *ON_A_BAD_DISK, "--run-dir", "run", *how]
    ended = Started("first", folder, on_a_bad_disk, refusal, *words)
    code = ended.wait()
    if Path("refused").exists():
        assert (code, ended.out) == (1, ""), ended.err
        assert 1 <= len(ended.err.splitlines()) <= 2, ended.err
        assert os.strerror(refusal.error) in ended.err
        assert not list(run.directory.rglob(".*")), "temporary files are left"
        left = run.checkpoints().all()
        for path in left:
            assert_same(load(path), saved[path.name])
        advised = re.search(r"dltrain ((?:train|resume) .+)$", ended.err)
        if advised:
            words = [*advised[1].split(), *how]
            assert words[0] == ("resume" if left else "train"), ended.err
        elif left:
            words = ["resume", "run", *how]
        ended = Started("again", folder, command_line, *words)
        code = ended.wait()
    assert code == 0, ended.err
    summary = json.loads(ended.out)
    assert summary["weights_sha256"] == weights
    assert recorded(Path(summary["run"])) == scalars


def assert_same(one: Snapshot, other: Snapshot) -> None:
    """But for the clock."""
    for kind in ("model", "averaged", "optimizer", "rng"):
        mine, theirs = getattr(one, kind), getattr(other, kind)
        assert mine.keys() == theirs.keys(), kind
        assert all(torch.equal(mine[name], theirs[name]) for name in mine), kind


ROWS = [
    Row(
        name="killed at each file operation of a save",
        promise="the old or the new checkpoint loads, and saving goes on",
        trial=killed_while_saving,
        pr=MOST_OPERATIONS,
        release=MOST_OPERATIONS,
        cases=len(SAVES),
    ),
    Row(
        name="lost power",
        promise="the newest save that had returned loads, or a newer one",
        trial=power_lost,
        pr=5,
        release=25,
        cases=POWER_CUTS,
    ),
    Row(
        name="disk full",
        promise="earlier checkpoints untouched, no rubbish, one or two lines, exit code 1; "
        "with space again, the outcome is that of an undisturbed run",
        trial=disk_refuses,
        pr=12,
        release=len(REFUSALS),
    ),
]
