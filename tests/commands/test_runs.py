"""The list of `runs`, and what `rm` removes and keeps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import write_folder

import dltrain
from dltrain.cli import inspection
from dltrain.commands import rm
from dltrain.core.errors import RunError
from dltrain.rundir.directory import Run

HOLD = """
import sys, time
from pathlib import Path
from dltrain.rundir.directory import Run
with Run(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def held():
    """Lock a run directory in another process."""
    started = []

    def hold(place: Path) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, place], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def trained(name: str, *overrides: str) -> Path:
    place = Path("runs") / name
    dltrain.train(dltrain.load("config.yaml", overrides), run_dir=place, quiet=True)
    return place


def set_best(run: Path, value: float) -> None:
    """Replace the best value of a run in every file that contains it."""
    summary = json.loads((run / "summary.json").read_text())
    before = summary["best"]["value"]
    for path in (run / "summary.json", run / "checkpoints" / "best.json", run / "metrics.jsonl"):
        path.write_text(path.read_text().replace(str(before), str(value)))


def test_a_finished_run(folder, call):
    run = trained("one")
    (found,) = dltrain.runs()
    summary = Run(run).summary()
    assert (found.run, found.state, found.step) == ("runs/one", "done", 10)
    assert found.best == summary.best
    assert 0 <= found.age < 300
    shown = call("runs")
    assert (shown.code, shown.err) == (0, "")
    for word in ("runs/one", "done", "10", "val/accuracy", f"{summary.best['value']:.6g}"):
        assert word in shown.out
    assert json.loads(call("runs", "--json").out)[0]["state"] == "done"


def test_runs_are_found_at_every_depth_and_links_are_not_followed(folder):
    for name in ("b/0001", "a/0002", "a/0001"):
        trained(name)
    Path("runs/link").symlink_to("a")
    assert [one.run for one in dltrain.runs()] == ["runs/a/0001", "runs/a/0002", "runs/b/0001"]
    assert [one.run for one in dltrain.runs(Path("runs/a/0002"))] == ["runs/a/0002"]


def test_states_of_runs(folder):
    for state in ("stopped", "failed", "killed", "damaged"):
        path = trained(state) / "summary.json"
        if state == "killed":
            path.unlink()
        elif state == "damaged":
            path.write_text("{")
        else:
            path.write_text(path.read_text().replace('"done"', f'"{state}"'))
    found = {one.run.removeprefix("runs/"): one for one in dltrain.runs()}
    assert all(one.state == name for name, one in found.items())
    assert found["killed"].step == 10
    assert found["killed"].best == found["failed"].best


def test_a_run_that_another_process_has_locked_is_running(folder, held):
    run = trained("one")
    process = held(run)
    assert dltrain.runs()[0].state == "running"
    process.kill()
    process.wait()
    assert dltrain.runs()[0].state == "done"


def test_listing_a_run_of_this_process_keeps_its_lock(folder):
    run = trained("one")
    with Run(run).locked():
        assert dltrain.runs()[0].state == "running"
        assert rm.plan([run]).remove == []
        other = [sys.executable, "-c", HOLD, run]
        done = subprocess.run(other, capture_output=True, text=True, check=False, timeout=600)
        assert "in use by process" in done.stderr
    assert dltrain.runs()[0].state == "done"


def test_watch_repeats_the_table(folder, call, monkeypatch):
    trained("one")
    naps = iter([None, None])

    def sleep(seconds: float) -> None:
        if next(naps, "over") == "over":
            raise KeyboardInterrupt

    monkeypatch.setattr(inspection.time, "sleep", sleep)
    ended = call("runs", "--watch")
    assert ended.code == 130
    assert ended.out.count("runs/one") == 3
    assert call("runs", "--watch", "--json").code == 2


def test_no_runs(folder, call):
    assert call("runs").code == 1
    Path("runs").mkdir()
    assert call("runs").out == "no runs\n"


# ---------------------------------------------------------------------------------------- removal


def test_rm_removes_a_run(folder, call):
    one, two = trained("one"), trained("two", "recording.tensorboard=true")
    dltrain.report([two])
    ended = call("rm", two, "--yes")
    assert (ended.code, ended.out) == (0, "1 removed\n")
    assert "remove  runs/two" in ended.err
    assert not two.exists()
    assert Run(one).state == "done"


def test_rm_removes_nothing_without_confirmation(folder, call, monkeypatch):
    run = trained("one")
    for answer, code, left in (("n\n", 130, True), ("", 130, True), ("y\n", 0, False)):
        given = folder / "answer"
        given.write_text(answer)
        with given.open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            assert call("rm", run).code == code
        assert (run / "config.yaml").exists() == left


def test_rm_keeps_files_that_dltrain_did_not_write(folder, call):
    run = trained("one")
    (run / "notes.txt").write_text("mine")
    ended = call("rm", run, "--yes")
    assert ended.code == 0
    assert "notes.txt" in ended.err
    assert [path.name for path in run.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("what", ["folder", "link", "missing", "configs"])
def test_rm_refuses_a_path_that_is_not_a_run(what, folder, call):
    run = trained("one")
    Path("link").symlink_to(run)
    Path("configs").mkdir()
    Path("configs/config.yaml").write_text("name: x")
    ended = call("rm", {"folder": "images"}.get(what, what), "--yes")
    assert (ended.code, ended.out) == (1, "")
    assert len(ended.err.splitlines()) == 1
    assert Run(run).state == "done"
    assert Path("configs/config.yaml").exists()
    assert any(Path("images").iterdir())


def test_rm_keeps_a_run_that_is_running(folder, call, held):
    run, other = trained("one"), trained("two")
    held(run)
    ended = call("rm", run, other, "--yes")
    assert (ended.code, ended.out) == (0, "1 removed\n")
    assert "it is running" in ended.err
    assert Run(run).state == "running"
    assert not other.exists()


def test_a_run_that_starts_after_the_plan_is_not_removed(folder, held):
    run = trained("one")
    removal = rm.plan([run])
    held(run)
    with pytest.raises(RunError, match="in use"):
        rm.remove(removal)
    assert Run(run).state == "running"
    assert (run / "checkpoints" / "latest.json").exists()


@pytest.mark.parametrize("best", ["val/accuracy", "val/loss"])
def test_keep_best_keeps_the_best_of_each_experiment(best, folder):
    a = [trained(f"a/{n}", "name=a", f"checkpoint.best={best}", f"seed={n}") for n in range(3)]
    for run, value in zip(a, (0.2, 0.91, 0.05), strict=True):
        set_best(run, value if best == "val/loss" else 1 + value)
    killed = trained("a/killed", "name=a", f"checkpoint.best={best}")
    (killed / "summary.json").unlink()
    (killed / "checkpoints" / "best.json").unlink()
    b = trained("b/1", "name=b")
    wanted = a[1] if best == "val/accuracy" else a[2]
    removal = rm.plan([Path("runs")], keep_best=True)
    assert set(removal.keep) == {str(wanted), str(b)}
    assert rm.remove(removal) == []
    assert {one.run for one in dltrain.runs()} == {str(wanted), str(b)}


def test_keep_best_compares_runs_with_one_evaluation_each(folder):
    once = ("train.evaluate=10 steps", "checkpoint.best=val/accuracy")
    runs = [trained(name, *once) for name in ("one", "two")]
    for run, value in zip(runs, (0.91, 0.2), strict=True):
        set_best(run, value)
    assert rm.plan([Path("runs")], keep_best=True).remove == [str(runs[1])]
    for run in runs:  # an earlier version recorded no direction
        path = run / "checkpoints" / "best.json"
        marked = json.loads(path.read_text())
        assert marked.pop("higher_is_better") is True
        path.write_text(json.dumps(marked))
    assert rm.plan([Path("runs")], keep_best=True).remove == []


def test_keep_best_keeps_all_runs_without_a_metric(folder):
    runs = [trained(name, "checkpoint.best=null") for name in ("one", "two")]
    assert rm.plan([Path("runs")], keep_best=True).remove == []
    assert all(run.exists() for run in runs)
