"""Training with several seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dltrain

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


def test_the_table_has_mean_and_deviation(call):
    called = call("train", TINY, "--seeds", "0,1", "--quiet")
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
    assert "leave --processes out" in called.err
