"""Untrusted run directories: links, special files, sparse files and mutated JSON."""

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
from rows import Row, assert_within

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
    """Create a link to a file outside the run."""
    path.symlink_to(Path("thesis.txt").absolute())


def folder_link(path: Path) -> None:
    """Create a link to a folder outside the run."""
    path.symlink_to(Path("outside").absolute())


def dangling(path: Path) -> None:
    """Create a dangling link, whose target a write would create."""
    path.symlink_to(Path("made.txt").absolute())


def loop(path: Path) -> None:
    """Create a link to itself."""
    path.symlink_to(path.name)


def hard_link(path: Path) -> None:
    """Create a hard link to a file outside the run."""
    path.hardlink_to("thesis.txt")


def fifo(path: Path) -> None:
    """Create a FIFO without a writer: reading it would block forever."""
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    """Create a socket; its address is the name only, since addresses are short."""
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)
        server.bind(path.name)
        os.chdir(here)


def regular_file(path: Path) -> None:
    """Create a file instead of a folder."""
    path.touch()


def directory(path: Path) -> None:
    """Create a folder instead of a file."""
    path.mkdir()


KINDS = [link, dangling, loop, hard_link, fifo, unix_socket, directory]
FOLDER_KINDS = [link, folder_link, dangling, loop, fifo, regular_file]
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
MAX_BYTES = 100 * 2**20


def everything(folder: Path) -> dict[str, tuple]:
    """Return the state of a folder without following links or opening special files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        content = path.read_bytes() if path.is_file() and state.st_size < 2**20 else b""
        found[str(path)] = (state.st_mode, state.st_size, state.st_mtime_ns, content)
    return found


def hostile_paths(number: int, folder: Path) -> None:
    """Replace one path of a run by each kind of wrong file, and run every command."""
    shutil.copytree(trained()[0], folder, dirs_exist_ok=True)
    for name in ("exports", "tensorboard/00010"):
        (folder / "run" / name).mkdir(parents=True)
    (folder / "thesis.txt").write_text("must survive")
    (folder / "outside").mkdir()
    (folder / "outside" / "events.out.tfevents.1").write_text("must survive too")
    shutil.copytree(folder / "run", folder / "runs" / "good")
    child = ChildProcess("child", folder, _try_hostile_paths, [*FILES, *FOLDERS][number])
    assert child.wait() == 0, child.err
    broken = json.loads(child.out)
    assert not broken, "\n".join(broken)


def _try_hostile_paths(place: str) -> None:
    """Print, as JSON, what was accepted or refused with a bad message."""
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
            started = time.monotonic()
            code, out, err = _run(*verb)
            assert_within(time.monotonic() - started, 2)
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
        broken += _check_listing(kind.__name__)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > MAX_BYTES:
        broken.append(f"memory grew by {grown:,} bytes")
    print(json.dumps(broken))


def _copy(source: str, place: str) -> None:
    """Copy a file, FIFO or hard link as the same kind."""
    state = os.lstat(source)
    if state.st_nlink > 1:
        os.link(source, place)
    elif Path(source).is_file():
        shutil.copy2(source, place)
    else:
        os.mkfifo(place)


def _check_listing(kind: str) -> list[str]:
    """Return the failures of commands that list a damaged run next to a good one."""
    broken = []
    for verb in (["runs"], ["compare", "runs"]):
        code, out, err = _run(*verb)
        if code or "runs/good" not in out or "damaged" not in out:
            broken.append(f"{kind}: {verb[0]} beside a good run: {code} {out} {err}")
    code, out, err = _run("rm", "runs", "--keep-best", "--yes", "--json")
    if code or "runs/evil" not in json.loads(out)["keep"]:
        broken.append(f"{kind}: rm --keep-best: {code} {out} {err}")
    return broken


def _run(*words: object) -> tuple[int, str, str]:
    try:
        return in_this_process(*words)
    except Exception:  # reported as a failure
        return -1, "", traceback.format_exc()


# ------------------------------------------------------------------------------ sparse files

HUGE = [name for name in FILES if "/" not in name and not name.startswith(".")]
HUGE += [f"{STEP}/{name}.safetensors" for name in ("model", "averaged", "optimizer", "rng")]
HUGE += [f"{STEP}/state.json", f"{STEP}/manifest.json"]
HUGE += ["checkpoints/best.json"]
SPARSE_BYTES, HEADER_BYTES = 2**40, 1000


def huge_files(number: int, folder: Path) -> None:
    """Run commands on a run with a sparse file of a terabyte."""
    shutil.copytree(trained()[0], folder, dirs_exist_ok=True)
    child = ChildProcess("child", folder, _try_sparse_file, HUGE[number])
    assert child.wait() == 0, child.err
    broken = json.loads(child.out)
    assert not broken, "\n".join(broken)


def _try_sparse_file(place: str) -> None:
    in_this_process("evaluate", "run")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Path("run").rename("evil")
    for other in sorted(Path("evil/checkpoints").glob("step-*"))[:-1]:
        shutil.rmtree(other)
    path = Path("evil", place)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(SPARSE_BYTES)
    if path.suffix == ".safetensors":  # with a matching manifest and header
        manifest = json.loads((path.parent / "manifest.json").read_text())
        manifest["files"][path.name]["bytes"] = SPARSE_BYTES
        (path.parent / "manifest.json").write_text(json.dumps(manifest))
        data = SPARSE_BYTES - 8 - HEADER_BYTES
        header = {"a": {"dtype": "U8", "shape": [data], "data_offsets": [0, data]}}
        with path.open("r+b") as file:
            file.write(HEADER_BYTES.to_bytes(8, "little"))
            file.write(json.dumps(header).encode().ljust(HEADER_BYTES))
    broken = []
    for verb in (["resume", "evil"], ["evaluate", "evil"], ["predict", "evil", "some.png"]):
        started = time.monotonic()
        code, out, err = _run(*verb)
        assert_within(time.monotonic() - started, 2)
        if code != 1 or out or len(err.splitlines()) > 1 or Path(place).name not in err:
            broken.append(f"{verb[0]}: {code} {out} {err}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > MAX_BYTES:
        broken.append(f"memory grew by {grown:,} bytes")
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
MUTATIONS_PER_TRIAL = 6


def mutate(draw: random.Random, value: Any) -> Any:
    """Replace, rename or delete a random key or value."""
    paths: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key, below in list(node.items() if isinstance(node, dict) else enumerate(node)):
            paths.append((node, key))
            if isinstance(below, dict | list):
                visit(below)

    top = [value]
    visit(top)
    node, key = draw.choice(paths)
    match draw.randrange(4):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            node[draw.choice(["", "x", "\x1b[31m", "name", "step"])] = node.pop(key)
        case _:
            node[key] = draw.choice(VALUES)
    return top[0] if top else None


def mutated_files(number: int, folder: Path) -> None:
    """Mutate files of a run; each command must report an error or work."""
    shutil.copytree(trained()[0], folder, dirs_exist_ok=True)
    child = ChildProcess("child", folder, _read_mutated, number)
    assert child.wait() == 0, child.err
    broken = json.loads(child.out)
    assert not broken, "\n".join(broken)


def _read_mutated(number: int) -> None:
    draw, broken = random.Random(number), []
    in_this_process("resume", "run", "--quiet")
    shutil.copytree("run", "good")
    for _ in range(MUTATIONS_PER_TRIAL):
        shutil.rmtree("run")
        shutil.copytree("good", "run")
        name = draw.choice(MUTATED)
        mutate_file(draw, Path("run", name))
        content = Path("run", name).read_bytes()[:2000]
        if name.endswith("state.json") or draw.random() < 0.3:  # so that the run can be resumed
            Path("run/summary.json").unlink(missing_ok=True)
        for verb in READERS:
            shutil.rmtree("again", ignore_errors=True)
            code, out, err = _run(*verb)
            if code not in (0, 1, 2) or "Traceback" in err or "\x1b" in out + err:
                broken.append(f"{name}: {verb[0]}: {code} {out} {err}\n{content!r}")
    print(json.dumps(broken))


def mutate_file(draw: random.Random, path: Path) -> None:
    """Mutate a file; update the manifest if it belongs to a checkpoint."""
    import yaml

    if path.suffix == ".yaml":
        changed = mutate(draw, yaml.safe_load(path.read_text()))
        path.write_text(json.dumps(changed, allow_nan=True))
    elif path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        place = draw.randrange(len(lines))
        lines[place] = json.dumps(mutate(draw, json.loads(lines[place])))
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text(json.dumps(mutate(draw, json.loads(path.read_text()))))
    if path.name == "state.json":
        update_manifest(path)


def update_manifest(path: Path) -> None:
    """Update the size and hash of a file in the manifest of its checkpoint."""
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
        trial=hostile_paths,
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
        cases=MUTATIONS_PER_TRIAL * len(READERS),
    ),
]
