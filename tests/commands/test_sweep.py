"""Searching: what is drawn, what is kept after a kill, and what is written."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import yaml
from processes import ChildProcess, command_line, processes_in_folder, wait_until_all_exit
from small_runs import read_metric_lines, write_folder

import dltrain
from dltrain.commands import sweep as command
from dltrain.core.errors import RunError
from dltrain.rundir.directory import Run
from dltrain.sweeps import workers

WAITING = Path(__file__).parent.parent / "waiting_plugin.py"
SPACE = {
    "optimizer.lr": {"float": [1e-3, 0.1], "log": True},
    "model.dropout": {"float": [0.0, 0.5]},
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_sweep(space: dict, **settings) -> Path:
    path = Path("sweep.yaml")
    path.write_text(yaml.safe_dump({"trials": 3, **settings, "space": space}, sort_keys=False))
    return path


def swept(space: dict, *overrides: str, **settings):
    """A sweep in this process."""
    run_dir = settings.pop("run_dir", Path("found"))
    path = write_sweep(space, **settings)
    return dltrain.sweep("config.yaml", path, overrides, run_dir=run_dir, quiet=True)


@pytest.mark.parametrize("jobs", [1, 2])
def test_quiet_prints_errors_only(folder, jobs):
    path = write_sweep(SPACE, trials=2)
    words = ("sweep", "config.yaml", path, "--quiet", "--jobs", jobs)
    done = ChildProcess("done", folder, command_line, *words, "--run-dir", "found")
    assert (done.wait(), done.out, done.err) == (0, "", "")
    worse = write_sweep({"optimizer.lr": {"float": [1e20, 1e30], "log": True}}, trials=2)
    words = ("sweep", "config.yaml", worse, "--quiet", "--jobs", jobs, "--run-dir", "failed")
    failed = ChildProcess("failed", folder, command_line, *words)
    assert (failed.wait(), failed.out) == (1, "")
    assert failed.err.startswith("no trial came to its end\ntrial 0: ")


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_samplers_draw_within_the_space_and_the_seed_decides(sampler):
    chosen = {"name": sampler} if sampler == "random" else {"name": sampler, "startup": 2}
    found = swept(SPACE, sampler=chosen, pruner="none", trials=4)
    assert [trial.state for trial in found.trials] == ["done"] * 4
    for trial in found.trials:
        assert 1e-3 <= trial.values["optimizer.lr"] <= 0.1
        assert 0 <= trial.values["model.dropout"] <= 0.5
        experiment = Run(Path(trial.run)).experiment()
        assert experiment.optimizer.options["lr"] == trial.values["optimizer.lr"]
        assert trial.value == Run(Path(trial.run)).summary().best["value"]
    again = swept(
        SPACE, sampler=chosen, pruner="none", trials=4, run_dir=Path("again"), storage="journal"
    )
    assert [t.values for t in again.trials] == [t.values for t in found.trials]
    assert [t.value for t in again.trials] == [t.value for t in found.trials]
    other = swept(SPACE, sampler=chosen, trials=1, run_dir=Path("other"), seed=1)
    assert other.trials[0].values != found.trials[0].values


def test_a_grid_is_every_combination_and_the_best_of_it_is_found():
    space = {
        "optimizer.lr": {"choice": [1e-12, 0.02]},
        "train.batch_size": {"int": [16, 48], "step": 16},
    }
    found = swept(space, trials=None, sampler="grid", pruner="none", metric="val/loss")
    drawn = {(t.values["optimizer.lr"], t.values["train.batch_size"]) for t in found.trials}
    assert drawn == {(lr, size) for lr in ("1e-12", "0.02") for size in (16, 32, 48)}
    assert not found.higher_is_better
    assert found.best.value == min(trial.value for trial in found.trials)
    assert found.best.values["optimizer.lr"] == "0.02"


def test_a_key_is_drawn_only_where_its_condition_holds():
    space = {
        "optimizer.name": {"choice": ["sgd", "adamw"]},
        "optimizer.lr": {"float": [0.01, 0.02]},
        "optimizer.momentum": {"float": [0.5, 0.9], "when": {"optimizer.name": "sgd"}},
    }
    found = swept(space, trials=6, sampler="random", pruner="none")
    names = [trial.values["optimizer.name"] for trial in found.trials]
    assert set(names) == {"sgd", "adamw"}
    for trial in found.trials:
        sgd = trial.values["optimizer.name"] == "sgd"
        assert ("optimizer.momentum" in trial.values) == sgd
        options = Run(Path(trial.run)).experiment().optimizer.options
        if sgd:
            assert options["momentum"] == trial.values["optimizer.momentum"]
    assert "not sampled" in Path(found.report).read_text()


def test_the_best_config_trains_to_the_same_weights(call):
    found = swept(SPACE)
    ended = call("train", found.config, "--run-dir", "best", "--quiet", "--json")
    assert ended.code == 0, ended.err
    best = Run(Path(found.best.run)).summary()
    assert json.loads(ended.out)["weights_sha256"] == best.weights_sha256


def test_a_trial_that_can_not_be_built_is_told_and_the_others_go_on():
    space = {"data.validation": {"choice": [30, 5000]}}
    found = swept(space, trials=None, sampler="grid")
    assert sorted(trial.state for trial in found.trials) == ["done", "failed"]
    (failed,) = [trial for trial in found.trials if trial.state == "failed"]
    assert "sweep.yaml:" in failed.error
    assert "data.validation: 5000 of 133" in failed.error
    assert "5000 of 133" in Path(found.report).read_text()


def test_where_none_comes_to_its_end_the_sweep_fails_with_the_first_reason(call):
    path = write_sweep({"optimizer.lr": {"choice": [1e20]}}, trials=2)
    called = call("sweep", "config.yaml", path, "optimizer.name=sgd", "--quiet")
    assert called.code == 1
    assert called.err.splitlines()[0] == "no trial came to its end"
    assert called.err.splitlines()[1].startswith("trial 0: ")


@pytest.mark.parametrize("pruner", [{"name": "median", "startup": 1}, {"name": "hyperband"}])
def test_what_is_worse_is_pruned_and_everyone_says_so(call, pruner):
    # Seed 1 draws the largest first and the smallest last: each is worse than all before it.
    space = {"optimizer.lr": {"choice": [1e-4, 1e-3, 0.02, 3e-5, 3e-4, 1e-5]}}
    overrides = ("train.steps=18", "train.evaluate=2 steps")
    found = swept(
        space, *overrides, trials=6, sampler="grid", seed=1, pruner=pruner, metric="val/loss"
    )
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert pruned
    assert found.best.values == {"optimizer.lr": "0.02"}
    for trial in pruned:
        run = Run(Path(trial.run))
        assert run.state == run.summary().status == "pruned"
        assert run.summary().step == 2 * len(trial.evaluations) < 18
        assert "test/loss" not in run.summary().metrics
    lines = call("runs", "found").out.splitlines()
    assert sum(" pruned " in line for line in lines) == len(pruned)
    assert "pruned" in call("compare", "found").out
    assert "pruned" in Path(found.report).read_text()


def test_a_pruned_trial_has_its_row_among_the_hyperparameters():
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    space = {"optimizer.lr": {"choice": [0.02, 1e-12]}}
    found = swept(
        space,
        "recording.tensorboard=true",
        trials=None,
        sampler="grid",
        seed=1,
        pruner={"name": "median", "startup": 1},
        metric="val/loss",
    )
    assert [trial.state for trial in found.trials] == ["done", "pruned"]
    for trial in found.trials:
        (path,) = Path(trial.run, "tensorboard").glob("events.out.tfevents.*")
        tags = {v.tag for event in EventFileLoader(str(path)).Load() for v in event.summary.value}
        assert {"_hparams_/session_start_info", "_hparams_/session_end_info", "val/loss"} <= tags


def test_a_killed_sweep_keeps_what_is_finished_and_goes_on_with_the_rest(folder):
    overrides = ("model=waiting",)
    space = {"optimizer.lr": SPACE["optimizer.lr"]}
    from dltrain.config.plugins import load_plugin

    load_plugin(WAITING)
    whole = swept(space, *overrides, run_dir=Path("whole"), pruner="none")
    swept(space, *overrides, trials=1, pruner="none")
    before = Path("found/trials/0000/metrics.jsonl").read_bytes()
    write_sweep(space, pruner="none")
    words = ("config.yaml", "sweep.yaml", *overrides, "--run-dir", "found", "--plugin", WAITING)
    environment = {"WAIT_IN_STEP": "8", "WAIT_FOR": str(folder / "never"), "OMP_NUM_THREADS": "1"}
    process = ChildProcess("killed", folder, command_line, "sweep", *words, environment=environment)
    process.wait_for("waiting")
    while not Path("found/trials/0001/checkpoints/step-0000000006").exists():
        assert process.running, process.err  # a thread writes it while the step waits
        time.sleep(0.01)
    process.end()
    assert Run(Path("found/trials/0001")).state == "killed"

    found = swept(space, *overrides, pruner="none")
    assert Path("found/trials/0000/metrics.jsonl").read_bytes() == before
    assert "resuming from" in Path("found/trials/0001/log.txt").read_text()
    assert [(t.values, t.value) for t in found.trials] == [
        (t.values, t.value) for t in whole.trials
    ]
    for one, other in zip(found.trials, whole.trials, strict=True):
        assert read_metric_lines(Path(one.run)) == read_metric_lines(Path(other.run))
    assert list(Path("found/workers").iterdir()) == []


def test_a_signal_stops_a_sweep_after_a_checkpoint(folder):
    write_sweep({"optimizer.lr": SPACE["optimizer.lr"]})
    words = ("config.yaml", "sweep.yaml", "model=waiting", "--plugin", WAITING)
    environment = {"WAIT_IN_STEP": "8", "WAIT_FOR": str(folder / "go"), "OMP_NUM_THREADS": "1"}
    process = ChildProcess(
        "stopped", folder, command_line, "sweep", *words, environment=environment
    )
    process.wait_for("waiting")
    process.signal(signal.SIGTERM)
    (folder / "go").touch()
    assert process.wait() == 128 + signal.SIGTERM
    assert process.err.splitlines()[-1] == "resume with the same command"
    assert Run(folder / "runs/config/sweep-sweep/trials/0000").state == "stopped"


def test_two_processes_share_a_study(call):
    path = write_sweep(SPACE, trials=5, pruner="none")
    words = ("sweep", "config.yaml", path, "--run-dir", "found", "--jobs", "2", "--json")
    called = call(*words)
    assert called.code == 0, called.err
    result = json.loads(called.out)
    assert [trial["state"] for trial in result["trials"]] == ["done"] * 5
    assert len({json.dumps(trial["values"]) for trial in result["trials"]}) == 5
    commands = [json.loads(Path(t["run"], "record.json").read_text()) for t in result["trials"]]
    assert all(record["device"]["threads"] == 1 for record in commands)
    # Once more: there is nothing left to do.
    again = json.loads(call(*words, "--quiet").out)
    assert again["trials"] == result["trials"]


def test_processes_end_with_the_one_that_started_them(folder):
    others = processes_in_folder(folder)
    write_sweep({"optimizer.lr": SPACE["optimizer.lr"]}, trials=60, pruner="none")
    words = ("config.yaml", "sweep.yaml", "model=waiting", "--plugin", WAITING, "--jobs", "2")
    environment = {"WAIT_IN_STEP": "8", "WAIT_FOR": str(folder / "go"), "OMP_NUM_THREADS": "1"}
    words += ("--run-dir", "found", "--quiet")
    started = ChildProcess("parent", folder, command_line, "sweep", *words, environment=environment)
    started.wait_for("waiting")
    started.end()
    (folder / "go").touch()
    wait_until_all_exit(folder, except_for=others)
    assert 0 < len(list(Path("found/trials").iterdir())) < 60


def test_threads_and_gpus_are_divided(monkeypatch):
    monkeypatch.setattr(workers.torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(workers.torch.cuda, "device_count", lambda: 0)
    assert workers.worker_environment(0, 3) == {"OMP_NUM_THREADS": "2"}
    monkeypatch.setattr(workers.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    found = [workers.worker_environment(number, 3)["CUDA_VISIBLE_DEVICES"] for number in range(3)]
    assert found == ["4", "7", "4"]


def test_the_report_shows_everything_and_needs_nothing_else():
    found = swept(SPACE, trials=10, pruner="none", sampler="random")
    page = Path(found.report).read_text()
    for text in (
        "Parallel coordinates",
        "Importance of the keys",
        "optimizer.lr",
        "model.dropout",
        "val/accuracy by trial",
        "best so far",
        "hidden: [8]",
    ):
        assert text in page, text
    assert page.count('<path class="line s0" style') == 9
    assert page.count('<path class="line s4" style') == 1
    assert "<script" not in page
    assert "http:" not in page.replace("http://www.w3.org", "")
    assert "https:" not in page
    assert sum(found.importance.values()) == pytest.approx(1)


def test_another_space_is_refused_and_more_trials_are_not(call):
    swept(SPACE, trials=1)
    first = swept(SPACE, trials=2)
    assert len(first.trials) == 2
    path = write_sweep({"optimizer.lr": {"float": [1e-3, 0.2], "log": True}})
    called = call("sweep", "config.yaml", path, "--run-dir", "found")
    assert called.code == 2
    assert "found contains a sweep of another config, metric or space" in called.err
    assert "'high': 0.2" in called.err


def test_a_metric_that_is_never_recorded_is_told_before_there_is_a_directory(call):
    path = write_sweep(SPACE, metric="val/acuracy")
    called = call("sweep", "config.yaml", path)
    assert called.code == 2
    assert "sweep.yaml:2:9: metric: this run has no scalar 'val/acuracy'" in called.err
    assert "did you mean 'val/accuracy'?" in called.err
    assert not Path("runs").exists()


def test_without_optuna_it_says_what_to_install(call, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    called = call("sweep", "config.yaml", write_sweep(SPACE))
    assert (called.code, called.err) == (2, "a sweep needs Optuna: pip install 'dltrain[sweep]'\n")


def test_a_trial_whose_process_always_dies_is_given_up(monkeypatch):
    path = write_sweep(SPACE, trials=2)

    def dies(*_arguments, **_options):
        raise KeyboardInterrupt  # as if the process had ended: nothing is reported

    with monkeypatch.context() as patch:
        patch.setattr(command, "train", dies)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                dltrain.sweep("config.yaml", path, run_dir=Path("found"), quiet=True)
    found = dltrain.sweep("config.yaml", path, run_dir=Path("found"), quiet=True)
    assert [trial.state for trial in found.trials] == ["failed", "done"]
    assert "again and again" in found.trials[0].error


def test_from_the_command_line(call):
    called = call("sweep", "config.yaml", write_sweep(SPACE), "train.steps=5")
    assert called.code == 0, called.err
    assert called.err.count("trial ") == 3
    lines = called.out.splitlines()
    assert lines[0] == "3 trials: 3 done"
    assert lines[1].startswith("best: trial ")
    assert (
        lines[-2]
        == "runs/config/sweep-sweep/best.yaml: config of the best trial, for dltrain train"
    )


def test_a_launched_process_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(dltrain.core.errors.UsageError, match="--jobs"):
        dltrain.sweep("config.yaml", write_sweep(SPACE))


def test_a_worker_that_is_killed_is_told(monkeypatch):
    with pytest.raises(RunError, match="exit codes 2, 2"):
        workers.run_workers(["no-such-verb"], 2)
