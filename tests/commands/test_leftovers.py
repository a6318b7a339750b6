"""A process is killed while it writes a file: the next one leaves no part of it behind."""

import os
import signal
from pathlib import Path

import pytest
import yaml
from processes import ChildProcess, command_line
from small_runs import write_folder

import dltrain


def die_while_writing(name: str, *words: object) -> None:
    """A command line that is killed when most of a file has been written, and none is renamed."""
    flush = os.fsync

    def die(descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if ".part" in path and name in path:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(descriptor)

    os.fsync = die
    command_line(*words)


def parts(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*.part")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def killed(folder: Path, name: str, *words: object) -> None:
    process = ChildProcess("killed", folder, die_while_writing, name, *words)
    assert process.wait() == -signal.SIGKILL
    assert any(name in path for path in parts(folder)) or "step-" in name


TRAIN = ["train", "config.yaml", "--run-dir", "run"]


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("record.json", ["rm", "run", "--yes"]),
        ("inputs.json", ["rm", "run", "--yes"]),
        ("step-0000000006", ["resume", "run"]),
        ("best.json", ["resume", "run"]),
        ("summary.json", ["resume", "run"]),
        ("summary.json", ["rm", "run", "--yes"]),
    ],
)
def test_a_training_that_was_killed_leaves_nothing_that_stays(folder, call, name, after):
    killed(folder, name, *TRAIN)
    assert parts(folder)
    ended = call(*after)
    assert ended.code == 0, ended.err
    assert parts(folder) == []
    assert (folder / "run").exists() == (after[0] == "resume")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("report.html", ["report", "run"]),
        ("page.html", ["report", "run", "-o", "page.html"]),
        ("model.safetensors", ["export", "run", "--to", "safetensors"]),
        ("model.safetensors.md", ["export", "run", "--to", "safetensors"]),
    ],
)
def test_a_command_that_was_killed_leaves_nothing_when_it_is_given_again(folder, call, name, words):
    dltrain.train(dltrain.load("config.yaml"), run_dir="run", quiet=True)
    killed(folder, name, *words)
    assert parts(folder)
    ended = call(*words)
    assert ended.code == 0, ended.err
    assert parts(folder) == []


def test_a_training_clears_away_what_an_export_has_left(folder, call):
    dltrain.train(dltrain.load("config.yaml"), run_dir="run", quiet=True)
    killed(folder, "model.safetensors", "export", "run", "--to", "safetensors")
    assert parts(folder / "run" / "exports")
    assert call("resume", "run").code == 0
    assert parts(folder) == []


def test_a_sweep_that_was_killed_leaves_nothing_when_it_is_given_again(folder, call):
    space = {"trials": 1, "space": {"optimizer.lr": {"float": [1e-3, 0.1], "log": True}}}
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    words = ["sweep", "config.yaml", "space.yaml", "--run-dir", "found"]
    for name in ("record.json", "best.yaml"):
        killed(folder, name, *words)
        assert parts(folder)
    ended = call(*words)
    assert ended.code == 0, ended.err
    assert parts(folder) == []
