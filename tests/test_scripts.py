"""Scripts whose figures the documentation shows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_data import write_images

import dltrain

SCRIPTS = Path(__file__).parent.parent / "scripts"


def ran(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_judge_gan_sets_a_distance_beside_the_untrained_ones_and_the_floor(tmp_path):
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
    for name, own in (("judge", judge), ("gan", gan)):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**common, **own, **quiet, "train": train}))
        summary = dltrain.train(dltrain.load(path), run_dir=tmp_path / name, quiet=True)
    words = (SCRIPTS / "judge_gan.py", tmp_path / "gan", "--samples", 40, "--json")
    done = ran(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    distance = summary.metrics["test/frechet_distance"]
    assert found["frechet_distance"] == pytest.approx(distance, rel=1e-5)
    assert found["share_of_untrained"] == pytest.approx(
        distance / found["untrained_frechet_distance"], rel=1e-5
    )
    assert 0 < found["floor_frechet_distance"] < distance < found["untrained_frechet_distance"]
    refused = ran(SCRIPTS / "judge_gan.py", tmp_path / "judge", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "no run of task 'gan'" in refused.stderr


def test_torture_goes_on_where_it_was_and_tells_what_broke(tmp_path):
    words = ("--only", "a metric that is NaN", "--out", tmp_path / "out")
    for trials in (1, 2):
        done = ran(SCRIPTS / "torture.py", *words, "--trials", trials, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    lines = (tmp_path / "out" / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [0, 1]
    assert "| 2/2 | 2 |" in (tmp_path / "out" / "table.md").read_text()
    broken = {"row": "a metric that is NaN", "number": 2, "seconds": 0.1, "error": "it broke"}
    with (tmp_path / "out" / "trials.jsonl").open("a") as file:
        print(json.dumps(broken), file=file)
    done = ran(SCRIPTS / "torture.py", *words, "--trials", 3, cwd=tmp_path)
    assert done.returncode == 1
    (row,) = json.loads((tmp_path / "out" / "torture.json").read_text())["rows"]
    assert row["broken"] == [2]
