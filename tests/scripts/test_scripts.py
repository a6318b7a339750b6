"""Scripts that produce the figures of the documentation."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_data import write_images, write_sentences

import dltrain

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run_script(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_judge_gan_compares_with_an_untrained_generator_and_the_floor(tmp_path):
    write_images(tmp_path / "images", train=133, test=40, side=8, classes=3)
    data = {"name": "idx", "root": str(tmp_path / "images"), "validation": 30}
    common = {"data": data, "optimizer": {"name": "adam", "lr": 0.002}}
    train = {"steps": 40, "batch_size": 32, "device": "cpu"}
    quiet = {"recording": {"tensorboard": False}}
    judge = {"model": {"name": "mlp", "hidden": [6]}, "loss": "cross_entropy"}
    gan = {
        "task": {"name": "gan", "judge": str(tmp_path / "judge")},
        "model": {"name": "gan_mlp", "latent": 4, "hidden": [32]},
        "loss": "hinge",
        "metrics": ["frechet_distance"],
    }
    for name, config in (("judge", judge), ("gan", gan)):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**common, **config, **quiet, "train": train}))
        summary = dltrain.train(dltrain.load(path), run_dir=tmp_path / name, quiet=True)
    words = (SCRIPTS / "judge_gan.py", tmp_path / "gan", "--samples", 40, "--json")
    done = run_script(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    distance = summary.metrics["test/frechet_distance"]
    assert values["frechet_distance"] == pytest.approx(distance, rel=1e-5)
    assert values["fraction_of_untrained"] == pytest.approx(
        distance / values["untrained_frechet_distance"], rel=1e-5
    )
    assert 0 < values["floor_frechet_distance"] < distance < values["untrained_frechet_distance"]
    failed = run_script(SCRIPTS / "judge_gan.py", tmp_path / "judge", cwd=tmp_path)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "expected a run of task 'gan' with a judge" in failed.stderr


def test_torture_resumes_and_reports_failed_trials(tmp_path):
    words = ("--only", "a metric that is NaN", "--out", tmp_path / "out")
    for trials in (1, 2):
        done = run_script(SCRIPTS / "torture.py", *words, "--trials", trials, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    lines = (tmp_path / "out" / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [0, 1]
    assert "| 2/2 | 2 |" in (tmp_path / "out" / "table.md").read_text()
    failed = {"row": "a metric that is NaN", "number": 2, "seconds": 0.1, "error": "it broke"}
    with (tmp_path / "out" / "trials.jsonl").open("a") as file:
        print(json.dumps(failed), file=file)
    done = run_script(SCRIPTS / "torture.py", *words, "--trials", 3, cwd=tmp_path)
    assert done.returncode == 1
    (row,) = json.loads((tmp_path / "out" / "torture.json").read_text())["rows"]
    assert row["failed"] == [2]


@pytest.fixture
def scripts_path(monkeypatch):
    """Make the modules of benchmark.py importable."""
    monkeypatch.syspath_prepend(SCRIPTS)


def measurement(*epochs: float, accuracy: float) -> dict:
    return {"epochs": [*epochs], "first_step": 2.5, "peak_bytes": 300e6, "accuracy": accuracy}


def test_the_table_has_medians_ratios_and_only_models_that_learned(scripts_path, tmp_path):
    from bench.report import row, table, update_page, with_ratios

    processes = {
        "dltrain": [measurement(1.0, 2.0, accuracy=0.97), measurement(6.0, 2.0, accuracy=0.97)],
        "handwritten": [measurement(1.0, accuracy=0.96)],
        "tutorial": [measurement(0.1, accuracy=0.2)],
        "ignite-tensors": [{"error": "it broke"}],
    }
    rows = with_ratios(
        [row("mnist_mlp", name, 60_000, results) for name, results in processes.items()]
    )
    ours = rows[0]
    assert ours["seconds_per_epoch"] == 2.0
    assert ours["microseconds_per_step"] == pytest.approx(2e6 / 469)
    assert [one.get("times_dltrain") for one in rows] == [1.0, 0.5, 0.05, None]
    shown = table(rows)
    assert [[cell.strip() for cell in line.split("|")[1:4]] for line in shown.splitlines()[4:]] == [
        ["hand-written loop, tensors", "1", "0.50"],
        ["dltrain", "2", "1.00"],
        ["tutorial's loop", "did not learn", ""],
        ["Ignite, tensors", "failed", ""],
    ]
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- benchmark -->old<!-- /benchmark -->\nafter\n")
    for _ in range(2):
        update_page(page, shown)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.count(shown.strip()) == 1


def test_the_benchmark_skips_uninstalled_frameworks(scripts_path, monkeypatch, capsys):
    import benchmark

    find = importlib.util.find_spec
    missing = ("keras", "accelerate")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else find(name)
    )
    words = ["mnist_mlp", "keras", "transformers-tensors", "handwritten"]
    assert benchmark.select_pairs(words) == [("mnist_mlp", "handwritten")]
    assert "keras is not installed" in capsys.readouterr().out


def test_the_benchmark_trains_and_writes_its_figures(tmp_path):
    write_images(tmp_path / "data" / "MNIST" / "raw", train=300, test=60, side=28, classes=10)
    write_sentences(tmp_path / "data" / "sst2")
    words = (
        "--only",
        "mnist_mlp",
        "sst2_lstm",
        "dltrain",
        "handwritten",
        "--quick",
        "--samples",
        200,
    )
    done = subprocess.run(
        [
            *(sys.executable, str(SCRIPTS / "benchmark.py"), *map(str, words)),
            *("--output", "figures.json"),
        ],
        cwd=tmp_path,
        env={**os.environ, "DLTRAIN_DATA": "data"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "figures.json").read_text())
    assert result["device"]["threads"] >= 1
    assert result["versions"]["torch"]
    assert [(one["network"], one["competitor"]) for one in result["rows"]] == [
        *(("mnist_mlp", "dltrain"), ("mnist_mlp", "handwritten")),
        *(("sst2_lstm", "dltrain"), ("sst2_lstm", "handwritten")),
    ]
    for one in result["rows"]:
        seconds, steps = one["seconds_per_epoch"], {"mnist_mlp": 2, "sst2_lstm": 1}[one["network"]]
        assert one["microseconds_per_step"] == pytest.approx(seconds / steps * 1e6)
        assert one["times_dltrain"] > 0
        assert one["first_step_seconds"] > 0
        assert one["peak_bytes"] > 10e6
        assert 0 <= one["accuracy"] <= 1
        assert one["epochs_trained"] == 2


def test_the_benchmark_reads_the_same_data_as_dltrain(
    scripts_path, sst2_root, mnist_root, tmp_path
):
    import bench.mnist
    import bench.sst2
    from bench.dataset_files import prepare

    from dltrain.core.protocols import DataContext
    from dltrain.data.mnist import mnist
    from dltrain.data.sst2 import sst2

    assert prepare(sst2_root, tmp_path / "data", None) == {"mnist": 60_000, "sst2": 6920}
    context = DataContext(tmp_path / "data")
    ours, theirs = sst2(context, min_count=2), bench.sst2.read(tmp_path / "data")
    assert theirs.vocabulary_size == len(ours.spec.inputs.vocabulary)
    lengths = [len(tokens) for tokens, _ in theirs.train]
    assert lengths == ours.train.lengths.tolist()
    batch = next(mnist(context, validation=0).test.batches(500))
    images, labels = bench.mnist.tensors(tmp_path / "data", train=False)
    assert labels[:500].equal(batch.targets)
    assert (images[:500] - batch.inputs).abs().max() < 1e-3
