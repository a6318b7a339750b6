"""Run directories of a stranger: links, special files, holes, and JSON of every other kind."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import socket
import time
import traceback
from pathlib import Path
from typing import Any

from checkpoint_faults import in_this_process, trained
from processes import ChildProcess
from rows import Row, in_time

import dltrain
from dltrain.core.errors import DltrainError

STEP = "checkpoints/step-0000000010"
FILES = ["config.yaml", "record.json", "metrics.jsonl", "summary.json", "log.txt", "inputs.json"]
FILES += ["lock", "report.html", ".summary.json.0123456789abcdef.part"]
FILES += ["checkpoints/best.json", "checkpoints/latest.json", "tensorboard/events.out.tfevents.1"]
FILES += [f"{STEP}/{name}" for name in ("model.safetensors", "state.json", "manifest.json")]
FILES += ["exports/model.safetensors"]
FOLDERS = ["checkpoints", STEP, "tensorboard", "tensorboard/00010", "exports"]


def link(path: Path) -> None:
    """To a file that is somebody's."""
    path.symlink_to(Path("thesis.txt").absolute())


def folder_link(path: Path) -> None:
    """To a folder that is somebody's."""
    path.symlink_to(Path("outside").absolute())


def dangling(path: Path) -> None:
    """A link to nothing, which a write would make."""
    path.symlink_to(Path("made.txt").absolute())


def loop(path: Path) -> None:
    """A link to itself."""
    path.symlink_to(path.name)


def second_name(path: Path) -> None:
    """A hard link."""
    path.hardlink_to("thesis.txt")


def fifo(path: Path) -> None:
    """A pipe that nobody writes to; who reads it waits for ever."""
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    """A socket; its path is short."""
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(path.parent)
        made.bind(path.name)
        os.chdir(here)


def a_file(path: Path) -> None:
    """In the place of a folder."""
    path.touch()


def a_directory(path: Path) -> None:
    """In the place of a file."""
    path.mkdir()


KINDS = [link, dangling, loop, second_name, fifo, unix_socket, a_directory]
FOLDER_KINDS = [link, folder_link, dangling, loop, fifo, a_file]
VERBS = [
    *(
        ["resume", "evil"],
        ["evaluate", "evil"],
        ["predict", "evil", "some.png"],
        ["sample", "evil"],
    ),
    *(["export", "evil", "--to", "safetensors"], ["serve", "evil", "--port", "0"]),
    *(["report", "evil"], ["compare", "evil"], ["rm", "evil", "--yes"], ["reproduce", "evil"]),
    ["train", "config.yaml", "--run-dir", "evil"],
]
MOST_BYTES = 100 * 2**20


def everything(folder: Path) -> dict[str, tuple]:
    """What is in a folder, without following or opening anything that is no plain file."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        content = path.read_bytes() if path.is_file() and state.st_size < 2**20 else b""
        found[str(path)] = (state.st_mode, state.st_size, state.st_mtime_ns, content)
    return found


def hostile_places(number: int, folder: Path) -> None:
    """One place of a run, as everything that it should not be, for every command."""
    shutil.copytree(trained()[0], folder, dirs_exist_ok=True)
    for name in ("exports", "tensorboard/00010"):
        (folder / "run" / name).mkdir(parents=True)
    (folder / "thesis.txt").write_text("my only copy")
    (folder / "outside").mkdir()
    (folder / "outside" / "events.out.tfevents.1").write_text("somebody's")
    shutil.copytree(folder / "run", folder / "runs" / "good")
    child = ChildProcess("child", folder, _try_hostile_places, [*FILES, *FOLDERS][number])
    assert child.wait() == 0, child.err
    broken = json.loads(child.out)
    assert not broken, "\n".join(broken)


def _try_hostile_places(place: str) -> None:
    """Prints what was not refused, or not well."""
    broken: list[str] = []
    in_this_process("evaluate", "run")
    in_this_process("report", "run", "-o", "page.html")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind in KINDS if place in FILES else FOLDER_KINDS:
        shutil.rmtree("evil", ignore_errors=True)
        shutil.copytree("run", "evil")
        path = Path("evil", place)
        path.parent.mkdir(exist_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        kind(path)
        whole = everything(Path.cwd())
        for verb in VERBS:
            began = time.monotonic()
            code, out, err = _called(*verb)
            in_time(time.monotonic() - began, 2)
            lines = err.strip().splitlines()
            if code not in (1, 2) or out or len(lines) != 1 or "evil" not in err:
                broken.append(f"{kind.__name__}: {verb[0]}: {code} {out} {err}")
            if everything(Path.cwd()) != whole:
                broken.append(f"{kind.__name__}: {verb[0]}: wrote something")
                whole = everything(Path.cwd())
        try:
            dltrain.Run.load("evil")
            broken.append(f"{kind.__name__}: Run.load")
        except DltrainError:
            pass
        shutil.rmtree("runs/evil", ignore_errors=True)
        shutil.copytree("evil", "runs/evil", symlinks=True, copy_function=_copy)
        broken += _beside_a_good_one(kind.__name__)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > MOST_BYTES:
        broken.append(f"memory has grown by {grown:,} bytes")
    print(json.dumps(broken))


def _copy(source: str, place: str) -> None:
    """Also what is no file, as the same kind; a hard link stays one."""
    state = os.lstat(source)
    if state.st_nlink > 1:
        os.link(source, place)
    elif Path(source).is_file():
        shutil.copy2(source, place)
    else:
        os.mkfifo(place)


def _beside_a_good_one(kind: str) -> list[str]:
    """A damaged run is reported, and hides no other."""
    broken = []
    for verb in (["runs"], ["compare", "runs"]):
        code, out, err = _called(*verb)
        if code or "runs/good" not in out or "damaged" not in out:
            broken.append(f"{kind}: {verb[0]} beside a good run: {code} {out} {err}")
    code, out, err = _called("rm", "runs", "--keep-best", "--yes", "--json")
    if code or "runs/evil" not in json.loads(out)["keep"]:
        broken.append(f"{kind}: rm --keep-best: {code} {out} {err}")
    return broken


def _called(*words: object) -> tuple[int, str, str]:
    try:
        return in_this_process(*words)
    except Exception:  # a traceback is what must not be
        return -1, "", traceback.format_exc()


# ------------------------------------------------------------------------------------ holes

HUGE = [name for name in FILES if "/" not in name and not name.startswith(".")]
HUGE += [f"{STEP}/{name}.safetensors" for name in ("model", "averaged", "optimizer", "rng")]
HUGE += [f"{STEP}/state.json", f"{STEP}/manifest.json"]
HUGE += ["checkpoints/best.json"]
HOLE_BYTES, HEADER_BYTES = 2**40, 1000


def huge_files(number: int, folder: Path) -> None:
    """A file that is a terabyte, of which the disk has nothing."""
    shutil.copytree(trained()[0], folder, dirs_exist_ok=True)
    child = ChildProcess("child", folder, _try_a_hole, HUGE[number])
    assert child.wait() == 0, child.err
    broken = json.loads(child.out)
    assert not broken, "\n".join(broken)


def _try_a_hole(place: str) -> None:
    in_this_process("evaluate", "run")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Path("run").rename("evil")
    for other in sorted(Path("evil/checkpoints").glob("step-*"))[:-1]:
        shutil.rmtree(other)
    path = Path("evil", place)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(HOLE_BYTES)
    if path.suffix == ".safetensors":  # and the manifest agrees, and what it says of its tensors
        manifest = json.loads((path.parent / "manifest.json").read_text())
        manifest["files"][path.name]["bytes"] = HOLE_BYTES
        (path.parent / "manifest.json").write_text(json.dumps(manifest))
        data = HOLE_BYTES - 8 - HEADER_BYTES
        header = {"a": {"dtype": "U8", "shape": [data], "data_offsets": [0, data]}}
        with path.open("r+b") as file:
            file.write(HEADER_BYTES.to_bytes(8, "little"))
            file.write(json.dumps(header).encode().ljust(HEADER_BYTES))
    broken = []
    for verb in (["resume", "evil"], ["evaluate", "evil"], ["predict", "evil", "some.png"]):
        began = time.monotonic()
        code, out, err = _called(*verb)
        in_time(time.monotonic() - began, 2)
        if code != 1 or out or len(err.splitlines()) > 1 or Path(place).name not in err:
            broken.append(f"{verb[0]}: {code} {out} {err}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > MOST_BYTES:
        broken.append(f"memory has grown by {grown:,} bytes")
    print(json.dumps(broken))


# -------------------------------------------------------------------------------- mutated JSON

MUTATED = ["summary.json", "record.json", "inputs.json", "metrics.jsonl", "config.yaml"]
MUTATED += ["checkpoints/best.json", f"{STEP}/manifest.json", f"{STEP}/state.json"]
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    0.5,
    10**18,
    10**400,
    -(10**30),
    1e308,
    "",
    "x",
    "\x1b[2J\n",
]
VALUES += [
    "\u202e",
    "\udcff",
    [],
    {},
    [[[]]],
    {"a": {"b": 1}},
    [1, "a"],
    float("nan"),
    float("inf"),
]
READERS = [
    *(
        ["runs", "."],
        ["compare", "run", "good"],
        ["evaluate", "run"],
        ["predict", "run", "some.png"],
    ),
    *(["report", "run"], ["reproduce", "run", "--quiet", "--run-dir", "again"]),
    ["resume", "run", "--quiet"],
]
MUTATIONS_A_TRIAL = 6


def mutated(draw: random.Random, value: Any) -> Any:
    """One key or value, somewhere in it, is another, twice there, or gone."""
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key, below in list(node.items() if isinstance(node, dict) else enumerate(node)):
            places.append((node, key))
            if isinstance(below, dict | list):
                visit(below)

    top = [value]
    visit(top)
    node, key = draw.choice(places)
    match draw.randrange(4):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            node[draw.choice(["", "x", "\x1b[31m", "name", "step"])] = node.pop(key)
        case _:
            node[key] = draw.choice(VALUES)
    return top[0] if top else None


def mutated_files(number: int, folder: Path) -> None:
    """Values of each file of a run are exchanged; each command refuses it, or works."""
    shutil.copytree(trained()[0], folder, dirs_exist_ok=True)
    child = ChildProcess("child", folder, _read_mutated, number)
    assert child.wait() == 0, child.err
    broken = json.loads(child.out)
    assert not broken, "\n".join(broken)


def _read_mutated(number: int) -> None:
    draw, broken = random.Random(number), []
    in_this_process("resume", "run", "--quiet")
    shutil.copytree("run", "good")
    for _ in range(MUTATIONS_A_TRIAL):
        shutil.rmtree("run")
        shutil.copytree("good", "run")
        name = draw.choice(MUTATED)
        change(draw, Path("run", name))
        content = Path("run", name).read_bytes()[:2000]
        if name.endswith("state.json") or draw.random() < 0.3:  # so that there is much to resume
            Path("run/summary.json").unlink(missing_ok=True)
        for verb in READERS:
            shutil.rmtree("again", ignore_errors=True)
            code, out, err = _called(*verb)
            if code not in (0, 1, 2) or "Traceback" in err or "\x1b" in out + err:
                broken.append(f"{name}: {verb[0]}: {code} {out} {err}\n{content!r}")
    print(json.dumps(broken))


def change(draw: random.Random, path: Path) -> None:
    """Mutates a file, and signs the checkpoint again where it is of one."""
    import yaml

    if path.suffix == ".yaml":
        changed = mutated(draw, yaml.safe_load(path.read_text()))
        path.write_text(json.dumps(changed, allow_nan=True))
    elif path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        place = draw.randrange(len(lines))
        lines[place] = json.dumps(mutated(draw, json.loads(lines[place])))
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text(json.dumps(mutated(draw, json.loads(path.read_text()))))
    if path.name == "state.json":
        signed(path)


def signed(path: Path) -> None:
    """Makes the checkpoint's manifest agree with a file."""
    import hashlib

    content = path.read_bytes()
    manifest = json.loads(path.with_name("manifest.json").read_text())
    sha256 = hashlib.sha256(content).hexdigest()
    manifest["files"][path.name] = {"bytes": len(content), "sha256": sha256}
    path.with_name("manifest.json").write_text(json.dumps(manifest))


ROWS: list[Row] = [
    Row(
        name="links, FIFOs, sockets and files in the wrong place of a run directory",
        promise="refused by every command in one line, within 2 s and 100 MB; nothing outside is "
        "touched, and other runs are listed",
        trial=hostile_places,
        pr=len(FILES) + len(FOLDERS),
        release=len(FILES) + len(FOLDERS),
        cases=len(KINDS) * len(VERBS),
    ),
    Row(
        name="files of a terabyte in a run directory",
        promise="refused by every command in 2 s and 100 MB",
        trial=huge_files,
        pr=len(HUGE),
        release=len(HUGE),
    ),
    Row(
        name="JSON and YAML of a run, mutated",
        promise="each command reports an error or works; never a traceback",
        trial=mutated_files,
        pr=6,
        release=100,
        cases=MUTATIONS_A_TRIAL * len(READERS),
    ),
]
