"""Groups and statistics of `compare`, against the configs and summaries of the runs."""

import csv
import io
import json
from pathlib import Path
from statistics import mean, stdev

import pytest
from small_runs import write_folder

import dltrain
from dltrain.rundir.directory import Run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(name: str, *overrides: str) -> Path:
    place = Path("runs") / name
    dltrain.train(dltrain.load("config.yaml", overrides), run_dir=place, quiet=True)
    return place


@pytest.fixture
def grid(folder):
    """Runs with two learning rates and three seeds each, in mixed order."""
    for seed in range(3):
        for lr in (0.001, 0.01):
            trained(f"{seed}-{lr}", f"seed={seed}", f"optimizer.lr={lr}")
    return Path("runs")


def summaries(lr: float):
    return [Run(Path(f"runs/{seed}-{lr}")).summary() for seed in range(3)]


def test_runs_that_differ_only_in_their_seed_form_one_group(grid):
    groups = dltrain.compare([grid])
    assert [group.seeds for group in groups] == [[0, 1, 2], [0, 1, 2]]
    assert [group.config for group in groups] == [
        {"optimizer.lr": "0.001"},
        {"optimizer.lr": "0.01"},
    ]
    for group, lr in zip(groups, (0.001, 0.01), strict=True):
        ended = summaries(lr)
        assert group.runs == [summary.run for summary in ended]
        for name in ("val/loss", "test/accuracy", "test/auroc"):
            values = [summary.metrics[name] for summary in ended]
            assert group.outcome[name].mean == pytest.approx(mean(values))
            assert group.outcome[name].deviation == pytest.approx(stdev(values))
            assert group.outcome[name].count == 3
        best = group.outcome["best val/accuracy"]
        assert best.mean == pytest.approx(mean(summary.best["value"] for summary in ended))


def test_the_table(grid, call):
    shown = call("compare", *grid.iterdir())
    assert (shown.code, shown.err) == (0, "")
    lines = {line.split("  ")[0]: line for line in shown.out.splitlines()}
    assert lines["optimizer.lr"].split() == ["optimizer.lr", "0.001", "0.01"] or (
        lines["optimizer.lr"].split() == ["optimizer.lr", "0.01", "0.001"]
    )
    assert lines["test/accuracy"].count("±") == 2
    assert "train.batch_size" not in shown.out


def test_csv_json_and_html_have_the_same_values(grid, call):
    (first, _) = csv.DictReader(io.StringIO(call("compare", grid, "--csv").out))
    printed = json.loads(call("compare", grid, "--json").out)[0]
    loss = printed["outcome"]["test/loss"]
    assert float(first["test/loss mean"]) == loss["mean"]
    assert float(first["test/loss deviation"]) == loss["deviation"]
    assert (first["test/loss runs"], first["optimizer.lr"]) == ("3", "0.001")
    page = call("compare", grid, "--html").out
    assert f"{loss['mean']:.5g} ± {loss['deviation']:.2g}" in page
    assert "<script" not in page
    assert call("compare", grid, "--html", "--csv").code == 2


def test_a_single_run_has_neither_deviation_nor_differences(folder, call):
    run = trained("one")
    (group,) = dltrain.compare([run, run])
    assert (group.runs, group.config) == ([str(run)], {})
    assert group.outcome["test/loss"].deviation is None
    assert "±" not in call("compare", run).out


def test_a_key_that_is_missing_in_one_config(folder):
    one = trained("one")
    two = trained("two", "optimizer={name: sgd, lr: 0.01, momentum: 0.5}")
    config = [group.config for group in dltrain.compare([one, two])]
    assert [each["optimizer.name"] for each in config] == ["adamw", "sgd"]
    assert [each["optimizer.momentum"] for each in config] == [None, "0.5"]


def test_only_completed_runs_count(grid):
    killed = Path("runs/2-0.001")
    (killed / "summary.json").unlink()
    group = dltrain.compare([grid])[0]
    assert group.states == ["done", "done", "killed"]
    assert group.outcome["test/loss"].count == 2


def test_paths_without_a_readable_run_are_an_error(folder, call):
    for place in ("images", "missing"):
        ended = call("compare", place)
        assert (ended.code, ended.out) == (1, "")
        assert len(ended.err.splitlines()) == 1
    run = trained("one")
    for content in ("[", "- 1", "seed: x"):
        (run / "config.yaml").write_text(content)
        ended = call("compare", run)
        assert (ended.code, ended.out) == (1, "")
