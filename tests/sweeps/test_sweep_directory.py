"""A sweep's directory may come from a stranger, as a run's may."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
import yaml
from small_runs import write_folder

import dltrain
from dltrain.core.errors import RunError
from dltrain.sweeps.locks import lock_file

DEAD = "0123456789abcdef0123456789abcdef"
SPACE = {"optimizer.lr": {"float": [1e-3, 0.1], "log": True}}


@pytest.fixture(scope="module", params=["sqlite", "journal"])
def begun(request, tmp_path_factory):
    """A folder with a sweep of which one trial is done, one had a process, and one is to come."""
    folder = tmp_path_factory.mktemp(request.param)
    write_folder(folder)
    (folder / "thesis.txt").write_text("my only copy")
    (folder / "outside").mkdir()
    settings = {"storage": request.param, "pruner": "none", "space": SPACE}
    (folder / "sweep.yaml").write_text(yaml.safe_dump({"trials": 1, **settings}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        sweep(folder)
        (folder / "sweep.yaml").write_text(yaml.safe_dump({"trials": 3, **settings}))
        patch.setattr("dltrain.commands.sweep.train", dies)
        with pytest.raises(KeyboardInterrupt):
            sweep(folder)
    (folder / "found").rename(folder / "kept")
    return folder


@pytest.fixture
def folder(begun, monkeypatch):
    """The sweep in `found`, as it was; paths in configs are absolute, so that it is not copied."""
    for name in ("found", "runs"):
        shutil.rmtree(begun / name, ignore_errors=True)
    for name in ("made", "pipe", "taken", "place"):
        (begun / name).unlink(missing_ok=True)
    shutil.copytree(begun / "kept", begun / "found")
    monkeypatch.chdir(begun)
    return begun


def sweep(folder: Path):
    return dltrain.sweep("config.yaml", "sweep.yaml", run_dir=folder / "found", quiet=True)


def dies(*_arguments, **_options):
    raise KeyboardInterrupt  # as if the process had ended: it reports nothing


def link(place: Path) -> None:
    place.symlink_to(Path("thesis.txt").absolute())


def folder_link(place: Path) -> None:
    place.symlink_to(Path("outside").absolute())


def dangling(place: Path) -> None:
    place.symlink_to(Path("made").absolute())


def second_name(place: Path) -> None:
    place.hardlink_to("thesis.txt")


def fifo(place: Path) -> None:
    os.mkfifo(place)


def directory(place: Path) -> None:
    place.mkdir()


def file(place: Path) -> None:
    place.touch()


def hole(place: Path) -> None:
    with place.open("wb") as opened:
        opened.truncate(2**40)


FILES = ["lock", f"workers/{DEAD}", "study.db", "study.db-journal", "study.db-wal"]
FILES += ["study.journal", "study.lock", "best.yaml", "report.html"]
FILES += [".best.yaml.0123456789abcdef.part", "trials/0001/config.yaml", "trials/0002/lock"]
FOLDERS = ["workers", "trials", "trials/0000", "trials/0001", "trials/0002"]
CASES = [(name, make) for name in FILES for make in (link, second_name, fifo, directory, hole)]
CASES += [(name, make) for name in FILES for make in (dangling,)]
CASES += [(name, make) for name in FOLDERS for make in (folder_link, dangling, fifo, file)]


@pytest.mark.parametrize(
    ("name", "make"), CASES, ids=[f"{name}-{make.__name__}" for name, make in CASES]
)
def test_what_no_sweep_has_is_refused_in_a_line_and_nothing_else_is_touched(
    folder, call, name, make
):
    place = folder / "found" / name
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(exist_ok=True)
    make(place)
    before = everything(folder)
    called = call("sweep", "config.yaml", "sweep.yaml", "--run-dir", "found")
    assert (called.code, called.out) == (1, ""), called.err
    (line,) = called.err.splitlines()
    assert place.name in line
    assert everything(folder) == before


def everything(folder: Path) -> dict[str, tuple]:
    """All but the locks, and what a database does to itself when it is opened."""
    own = ("found/lock", "found/study.lock", "found/study.db")
    found = {}
    for path in sorted(folder.rglob("*")):
        state, name = path.lstat(), str(path.relative_to(folder))
        if name not in own and not name.startswith("found/workers/"):
            content = path.read_bytes() if path.is_file() and state.st_size < 2**20 else b""
            found[name] = (state.st_mode, state.st_size, content)
    return found


@pytest.mark.parametrize("worker", ["../../pipe", "/dev/zero", "..", "", 3, None, "a" * 5000])
def test_a_workers_name_leads_nowhere(folder, call, worker):
    os.mkfifo(folder / "pipe")
    set_attribute(folder, "worker", worker)
    called = call("sweep", "config.yaml", "sweep.yaml", "--run-dir", "found")
    assert called.code == 1
    (line,) = called.err.splitlines()
    assert "the study is damaged: trial 1: user_attrs.worker" in line


@pytest.mark.parametrize(
    ("name", "value"), [("progress", "many"), ("progress", [-1]), ("error", ["\x1b[2J"])]
)
def test_a_study_of_other_types_is_refused(folder, call, name, value):
    set_attribute(folder, name, value)
    called = call("sweep", "config.yaml", "sweep.yaml", "--run-dir", "found")
    assert called.code == 1
    (line,) = called.err.splitlines()
    assert f"trial 1: user_attrs.{name}" in line
    assert "\x1b" not in line


def set_attribute(folder: Path, name: str, value: object) -> None:
    """Of trial 1, in the study, past Optuna."""
    if (folder / "found/study.db").exists():
        with sqlite3.connect(folder / "found/study.db") as study:
            study.execute(
                "INSERT OR REPLACE INTO trial_user_attributes (trial_id, key, value_json) "
                "SELECT trial_id, ?, ? FROM trials WHERE number = 1",
                (name, json.dumps(value)),
            )
        study.close()
        return
    path = folder / "found/study.journal"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    last = next(line for line in reversed(lines) if "worker" in line.get("user_attr", {}))
    lines.append({**last, "user_attr": {name: value}})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"SQLite format 3\0", b"[1]\n{}\n", b"{\n"])
def test_a_study_that_is_none_is_refused_or_begun_again(folder, call, content):
    for name in ("study.db", "study.journal"):
        if (folder / "found" / name).exists():
            (folder / "found" / name).write_bytes(content)
    called = call("sweep", "config.yaml", "sweep.yaml", "--run-dir", "found")
    if content:
        assert (called.code, len(called.err.splitlines())) == (1, 1), called.err
        assert "study" in called.err
    else:
        assert called.code == 0, called.err


def test_a_damaged_sweep_hides_no_run_and_what_is_not_the_sweeps_stays(folder, call):
    mine = folder / "found/workers/mine"
    mine.touch()
    shutil.copytree(folder / "found", folder / "runs/good")
    shutil.copytree(folder / "found", folder / "runs/evil")
    shutil.rmtree(folder / "runs/evil/workers")
    (folder / "runs/evil/workers").symlink_to(folder / "outside")
    (folder / "runs/evil/study.db").unlink(missing_ok=True)
    os.mkfifo(folder / "runs/evil/study.db")
    for words in (["runs"], ["compare", "runs"], ["rm", "runs", "--keep-best", "--yes"]):
        called = call(*words)
        assert called.code == 0, called.err
        assert "runs/good/trials/0000" in called.out + called.err
    (folder / "found/notes").symlink_to("/")
    sweep(folder)
    assert [path.name for path in Path("found/workers").iterdir()] == ["mine"]


def test_a_place_that_can_not_be_made_is_told(folder):
    (folder / "taken").touch()
    for place in (folder / "taken", folder / "taken/below"):
        with pytest.raises(RunError, match="taken"):
            dltrain.sweep("config.yaml", "sweep.yaml", run_dir=place, quiet=True)


def test_a_lock_is_no_link(folder):
    (folder / "place").symlink_to("thesis.txt")
    with pytest.raises(OSError, match="link"), lock_file(folder / "place"):
        pass
