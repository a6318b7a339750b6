"""Training with several seeds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dltrain
from dltrain.rundir.directory import Run

TINY = Path(__file__).parent.parent.parent / "configs" / "tiny" / "spirals_mlp.yaml"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_each_seed_is_the_run_that_it_is_alone_and_they_are_one_group(call):
    called = call("train", TINY, "--seeds", "3..5", "--quiet", "--json")
    assert called.code == 0, called.err
    result = json.loads(called.out)
    assert sorted(p.name for p in Path(result["directory"]).iterdir()) == [
        "seed-3",
        "seed-4",
        "seed-5",
    ]
    for seed, summary in zip((3, 4, 5), result["summaries"], strict=True):
        alone = dltrain.train(dltrain.load(TINY, [f"seed={seed}"]), quiet=True)
        assert summary["weights_sha256"] == alone.weights_sha256
    (group,) = result["groups"]
    assert group["seeds"] == [3, 4, 5]
    losses = [summary["metrics"]["test/loss"] for summary in result["summaries"]]
    assert group["outcome"]["test/loss"]["mean"] == pytest.approx(sum(losses) / 3)
    assert group["outcome"]["test/loss"]["deviation"] > 0


def test_a_second_call_goes_on_where_the_first_was_stopped(call):
    words = ("train", TINY, "--quiet", "--json", "--run-dir", "group")
    first = json.loads(call(*words, "--seeds", "0").out)
    before = Path("group/seed-0/metrics.jsonl").read_bytes()
    both = json.loads(call(*words, "--seeds", "0,1").out)
    assert both["summaries"][0] == first["summaries"][0]
    assert Path("group/seed-0/metrics.jsonl").read_bytes() == before
    assert both["groups"][0]["seeds"] == [0, 1]


KILLED = """
import os, signal
from torch import nn
from dltrain import MODELS, DataSpec

@MODELS.register
def mortal(spec: DataSpec, /) -> nn.Module:
    "Kills its process at the second step."
    class Mortal(nn.Linear):
        calls = 0
        def forward(self, inputs):
            self.calls += 1
            if self.calls == 2 and os.environ.get("KILL"):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().forward(inputs)
    return Mortal(spec.input_shape[0], spec.num_outputs)
"""


def test_a_seed_that_was_killed_before_anything_was_saved_starts_over(call, tmp_path, monkeypatch):
    (tmp_path / "mortal.py").write_text(KILLED)
    words = ("train", TINY, "model=mortal", "--plugin", "mortal.py", "--quiet", "--json")
    words = (*map(str, words), "--run-dir", "group", "--seeds", "0,1")
    monkeypatch.setenv("KILL", "1")
    begun = subprocess.run([sys.executable, "-m", "dltrain", *words], check=False, timeout=600)
    assert begun.returncode == -signal.SIGKILL
    assert Run(Path("group/seed-0")).state == "killed"
    Path("group/seed-0/inputs.json").write_text("of the data that it read")
    monkeypatch.delenv("KILL")
    dltrain.load(TINY)
    monkeypatch.setattr(dltrain.MODELS, "_components", dict(dltrain.MODELS))
    called = call(*words)
    assert called.code == 0, called.err
    result = json.loads(called.out)
    assert result["groups"][0]["states"] == ["done", "done"]
    alone = dltrain.train(dltrain.load(TINY, ["model=mortal"]), quiet=True)
    assert result["summaries"][0]["weights_sha256"] == alone.weights_sha256
    lines = [(Path(run) / "metrics.jsonl").read_text() for run in ("group/seed-0", alone.run)]
    assert len(lines[0].splitlines()) == len(lines[1].splitlines())
    assert "of the data that it read" not in Path("group/seed-0/inputs.json").read_text()


def test_what_is_no_run_is_not_touched(call):
    Path("group/seed-0").mkdir(parents=True)
    Path("group/seed-0/config.yaml").write_text("mine: 1")
    called = call("train", TINY, "--seeds", "0", "--run-dir", "group")
    assert called.code == 1
    assert Path("group/seed-0/config.yaml").read_text() == "mine: 1"


@pytest.mark.parametrize("name", ["seed-0", "seed-1", "seed-0/summary.json", "seed-0/lock"])
@pytest.mark.parametrize("kind", ["link", "dangling", "fifo"])
def test_links_and_special_files_are_refused_before_anything_is_trained(call, name, kind):
    assert call("train", TINY, "--seeds", "0", "--run-dir", "group", "--quiet").code == 0
    place = Path("group", name)
    if place.is_dir():
        place.rename("kept")
    place.unlink(missing_ok=True)
    Path("outside").mkdir()
    match kind:
        case "fifo":
            os.mkfifo(place)
        case "link":
            place.symlink_to(Path("outside").absolute())
        case _:
            place.symlink_to(Path("made").absolute())
    before = sorted(Path().rglob("*"))
    called = call("train", TINY, "--seeds", "1,2", "--run-dir", "group", "--quiet")
    assert (called.code, called.out) == (1, "")
    (line,) = called.err.splitlines()
    assert f"{place.name} is a" in line
    assert sorted(Path().rglob("*")) == before


def test_the_table_has_mean_and_deviation(call):
    called = call("train", TINY, "--seeds", "0,1")
    assert called.code == 0
    assert " ± " in called.out


@pytest.mark.parametrize("words", ["", "a", "1..", "3..1", "0,0", "1,x"])
def test_what_is_no_list_of_seeds_is_refused(call, words):
    called = call("train", TINY, "--seeds", words)
    assert called.code == 2
    assert not Path("runs").exists()


def test_seeds_and_processes_are_refused_together(call):
    called = call("train", TINY, "--seeds", "0,1", "--processes", "2")
    assert called.code == 2
    assert "--seeds and --processes exclude each other" in called.err
