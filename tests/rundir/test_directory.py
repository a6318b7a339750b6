"""The run directory: its number, its lock, what is recorded, what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
import yaml
from processes import ChildProcess
from small_data import write_images
from small_runs import CONFIG, read_metric_lines, write_folder

import dltrain
from dltrain.core.errors import RunError
from dltrain.rundir.directory import Run
from dltrain.rundir.git import git_state


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def at_once(number: int, make) -> list:
    """What so many calls give that start at the same moment; their RunErrors as well."""
    barrier = Barrier(number)

    def one(_):
        barrier.wait()
        try:
            return make()
        except RunError as error:
            return error

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))


@pytest.mark.usefixtures("folder")
def test_runs_are_numbered_even_when_many_start_at_once():
    experiment = dltrain.load("config.yaml")
    Path("runs/config/0041").mkdir(parents=True)
    Path("runs/config/notes").mkdir()
    runs = at_once(8, lambda: Run.create(experiment))
    assert sorted(str(run.directory) for run in runs) == [
        f"runs/config/{number:04d}" for number in range(42, 50)
    ]
    for run in runs:
        assert dltrain.load(run.config_path).to_dict() == experiment.to_dict()


def test_of_many_that_want_one_directory_one_gets_it(folder):
    experiment = dltrain.load("config.yaml")
    outcomes = at_once(8, lambda: Run.create(experiment, folder / "mine"))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Run"] + 7 * ["RunError"]
    refused = next(outcome for outcome in outcomes if isinstance(outcome, RunError))
    assert str(refused).endswith(f"if it does not run: dltrain rm {folder / 'mine'}")


def test_a_place_that_cannot_be_made(folder):
    (folder / "file").touch()
    with pytest.raises(RunError, match="can't make the run directory"):
        Run.create(dltrain.load("config.yaml"), folder / "file" / "run")


def hold(run: Path, child_file: str) -> None:
    """Holds the lock of a run, and has a child that inherits every open file."""
    with Run(run).locked():
        child = os.fork()
        if not child:
            time.sleep(600)
        Path(child_file).write_text(str(child))
        print("locked", file=sys.stderr, flush=True)
        time.sleep(600)


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    holder = ChildProcess("holder", tmp_path, hold, run, "child")
    try:
        holder.wait_for("locked")
        message = f"run is in use by process {holder.pid} on "
        with pytest.raises(RunError, match=message), Run(run).locked():
            pass
    finally:
        holder.end()
    child = int((tmp_path / "child").read_text())
    try:
        os.kill(child, 0)  # the orphan lives
        with Run(run).locked():
            assert str(os.getpid()) in (run / "lock").read_text()
    finally:
        os.kill(child, signal.SIGKILL)
    assert (run / "lock").read_text() == ""


def git(*words: str) -> str:
    identity = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    done = subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_record_of_a_run(call, folder, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    git("init", "-q")
    git("add", "config.yaml")
    git("commit", "-q", "-m", "first")
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text() + "seed: 5\n")
    words = ["train", "config.yaml", "train.steps=3", "--run-dir", "run", "--quiet"]
    assert call(*words).code == 0
    record = json.loads((folder / "run" / "record.json").read_text())
    assert record["versions"]["torch"] == torch.__version__
    assert record["versions"]["dltrain"] == dltrain.__version__
    assert {"python", "numpy", "cuda", "platform"} <= set(record["versions"])
    assert record["device"]["type"] == "cpu"
    assert set(record["timings"]) == {"data_seconds", "build_seconds"}
    assert record["device"]["precision"] == "fp32"
    assert record["device"]["threads"] == torch.get_num_threads()
    assert record["command"] == ["dltrain", *words]
    assert record["directory"] == str(folder)
    assert record["git"]["commit"] == git("rev-parse", "HEAD")
    assert "+seed: 5\n" in record["git"]["diff"]
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert record["data"] == summary["data"]
    assert len(record["data"]["fingerprint"]) == 64
    assert time.strptime(record["started"], "%Y-%m-%dT%H:%M:%S%z")


def test_outside_a_repository_there_is_no_git_state(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert git_state() is None


STOPPED = CONFIG | {"model": {"name": "stochastic", "stop_at": 7}}


def stopped(experiment, run: Path, *overrides: str) -> None:
    """Trains until the model's signal, which comes once."""
    with pytest.raises(dltrain.core.errors.InterruptedRunError):
        dltrain.train(experiment(STOPPED, *overrides), run_dir=run, quiet=True)


def test_changed_data_is_not_gone_on_with(experiment, folder):
    run = folder / "run"
    stopped(experiment, run)
    before = read_metric_lines(run)
    write_images(folder / "images", train=133, test=41, side=8, classes=3)
    with pytest.raises(RunError, match=r"the data is not what .*run was trained on: it came from"):
        dltrain.resume(run, quiet=True)
    assert read_metric_lines(run) == before
    write_folder(folder)
    assert dltrain.resume(run, quiet=True).status == "done"


def test_a_damaged_summary_or_record_is_named(call, experiment, folder):
    run = folder / "run"
    stopped(experiment, run)
    for name in ("record.json", "summary.json"):
        whole = (run / name).read_bytes()
        for content in (whole[:-10], b"{}", b"[]"):
            (run / name).write_bytes(content)
            ended = call("resume", run)
            assert (ended.code, ended.out) == (1, "")
            assert ended.err.splitlines()[-1].startswith(f"{run / name}: ")
        (run / name).write_bytes(whole)
    assert call("resume", run).code == 0


def test_a_run_that_was_killed_before_its_first_checkpoint(call, folder):
    Run.create(dltrain.load("config.yaml"), folder / "run")
    ended = call("resume", folder / "run")
    assert (ended.code, ended.out) == (1, "")
    message, hint = ended.err.splitlines()
    assert "holds no good checkpoint to resume from" in message
    again = f"dltrain train {folder / 'run' / 'config.yaml'}"
    assert hint == f"restart with: {again}"
    assert call(*again.split()[1:]).code == 0
    other = json.loads(next(folder.glob("runs/*/*/record.json")).read_text())
    record = other | {"plugins": ["my model.py"], "directory": str(folder)}
    (folder / "run" / "record.json").write_text(json.dumps(record))
    message = call("resume", folder / "run").err.splitlines()[-1]
    assert message == f"restart with: {again} --plugin '{folder / 'my model.py'}'"


def test_a_directory_that_could_not_be_made_a_run_is_free_again(folder, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    experiment = dltrain.load("config.yaml")
    with monkeypatch.context() as patched:
        patched.setattr("dltrain.checkpoints.atomic_files.os.fsync", full)
        with pytest.raises(RunError, match=r"can't make the run directory: .*No space"):
            Run.create(experiment, folder / "run")
    assert list((folder / "run").glob("*")) == []
    Run.create(experiment, folder / "run")


def test_paths_of_every_kind(call, experiment, tmp_path):
    place = tmp_path / "my runs é 中 🚀"
    write_folder(place)
    config = place / "mein Übungs-café.yaml"
    content = STOPPED | {"name": "run", "data": {**CONFIG["data"], "root": str(place / "images")}}
    experiment(content)  # registers the model
    config.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    run = place / "the run 一"
    ended = call("train", config, "--run-dir", run)
    assert ended.code == 143
    assert f"resume with: dltrain resume {run}" in ended.err
    resumed = call("resume", run, "--json")
    assert resumed.code == 0
    assert json.loads(resumed.out)["run"] == str(run)
    assert json.loads(resumed.out)["data"]["source"] == str(place / "images")
    assert str(run) in (run / "log.txt").read_text(encoding="utf-8")
    evaluated = call("evaluate", run, "--json")
    assert json.loads(evaluated.out)["samples"] == 40


def test_the_peak_of_memory_is_the_process_s_own_and_not_its_parent_s():
    ballast = bytearray(b"x") * (900 << 20)
    script = "import torch; from dltrain.training.device import peak_memory_bytes as peak\n"
    script += "print(peak(torch.device('cpu')))\nown = bytearray(b'x') * (1000 << 20)\n"
    script += "print(peak(torch.device('cpu')))"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    before, after = map(int, done.stdout.split())
    assert 20 << 20 < before < len(ballast)
    assert before + (990 << 20) < after < before + (1100 << 20)
