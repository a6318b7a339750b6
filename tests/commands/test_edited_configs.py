"""A run is not resumed, reproduced or extended with a config other than the one it started with."""

import json
from pathlib import Path

import pytest
import yaml
from small_runs import CONFIG, read_metric_lines, write_folder

import dltrain
from dltrain.config import ConfigError
from dltrain.core.errors import InterruptedRunError, UsageError

SETTINGS = {
    **CONFIG,
    "schedule": {"name": "one_cycle", "warmup": 0.2},
    "train": {**CONFIG["train"], "steps": None, "epochs": 4, "clip_norm": 1.0},
}


@pytest.fixture
def interrupted(experiment, tmp_path) -> Path:
    """A run of four epochs that was interrupted in the second one."""
    write_folder(tmp_path)
    config = {**SETTINGS, "model": {"name": "stochastic", "stop_at": 7}}
    with pytest.raises(InterruptedRunError):
        dltrain.train(experiment(config), run_dir=tmp_path / "run", quiet=True)
    return tmp_path / "run"


def edit(run: Path, key: str, value: object) -> None:
    """Sets a key of a run's config."""
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    *sections, name = key.split(".")
    section = config
    for one in sections:
        section = section[one]
    section[name] = value
    path.write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("key", "value", "before", "now"),
    [
        ("seed", 7, "0", "7"),
        ("model.nan_at", [99], "[]", "[99]"),
        ("data.validation", 31, "30", "31"),
        ("data.augment", {"flip": True}, "null", "not set"),
        ("loss.label_smoothing", 0.1, "0.0", "0.1"),
        ("optimizer.lr", 0.02, "0.01", "0.02"),
        ("schedule.warmup", 0.5, "0.2", "0.5"),
        ("metrics", ["accuracy"], None, None),
        ("train.batch_size", 16, "32", "16"),
        ("train.clip_norm", None, "1.0", "null"),
        ("train.precision", "bf16", '"auto"', '"bf16"'),
        ("train.ema", 0.9, "null", "0.9"),
        ("train.on_nonfinite", "skip", '"stop"', '"skip"'),
        ("train.evaluate", "2 steps", '"5 steps"', '"2 steps"'),
        ("checkpoint.best", "val/loss", '"val/accuracy"', '"val/loss"'),
        ("early_stop", {"monitor": "val/loss"}, "null", "not set"),
    ],
)
def test_a_changed_outcome_is_refused_at_its_line(interrupted, call, key, value, before, now):
    edit(interrupted, key, value)
    files = {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()}
    ended = call("resume", interrupted)
    assert (ended.code, ended.out) == (2, "")
    message, note = ended.err.splitlines()[0], ended.err.splitlines()[-1]
    assert message.startswith(f"{interrupted / 'config.yaml'}:")
    assert f": {key}" in message
    if before is not None:
        assert f"expected {before}, as when the run was started, got {now}" in ended.err
    assert note == "change it back, or train the changed config as a new run"
    assert {path: path.read_bytes() for path in files} == files


def test_every_changed_key_is_named_and_a_replaced_component_once(interrupted):
    edit(interrupted, "optimizer", {"name": "sgd", "lr": 0.5})
    edit(interrupted, "train.batch_size", 16)
    with pytest.raises(ConfigError) as error:
        dltrain.resume(interrupted, quiet=True)
    assert [problem.path for problem in error.value.problems] == [
        "optimizer.name",
        "train.batch_size",
    ]


def test_comments_key_order_and_omitted_defaults_may_change(interrupted, tmp_path):
    path = interrupted / "config.yaml"
    config = yaml.safe_load(path.read_text())
    del config["train"]["micro_batch"]  # a default
    text = yaml.safe_dump(dict(reversed(config.items())), sort_keys=False)
    path.write_text(f"# mine\n{text}")
    resumed = dltrain.resume(interrupted, quiet=True)
    whole = dltrain.train(
        dltrain.load(path, ["model.stop_at=0"]), run_dir=tmp_path / "whole", quiet=True
    )
    assert resumed.weights_sha256 == whole.weights_sha256


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "renamed"),
        ("checkpoint.keep", 9),
        ("checkpoint.every", "1 step"),
        ("recording.tensorboard", True),
        ("train.timeout", 60),
        ("train.evaluate_batch_size", 7),
    ],
)
def test_what_changes_no_outcome_may_change(interrupted, key, value):
    edit(interrupted, key, value)
    assert dltrain.resume(interrupted, quiet=True, exact=True).status == "done"


def test_moved_data_may_be_named_anew(interrupted, tmp_path):
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    edit(interrupted, "data.root", "elsewhere")
    assert dltrain.resume(interrupted, quiet=True).status == "done"


def test_what_changes_the_rounding_is_noted_or_refused_by_exact(interrupted, call):
    edit(interrupted, "train.micro_batch", 16)
    ended = call("resume", interrupted, "--exact")
    assert ended.code == 1
    assert "can't resume bitwise identically: train.micro_batch was null and is 16" in ended.err
    ended = call("resume", interrupted)
    assert ended.code == 0
    assert "note: train.micro_batch was null and is 16; results may differ" in ended.err


def test_the_length_of_an_unfinished_run_may_change(interrupted, call):
    edit(interrupted, "train.epochs", 5)
    ended = call("resume", interrupted, "--exact", "--json")
    assert ended.code == 0
    assert json.loads(ended.out)["epoch"] == 5
    assert "note: train.epochs was 4 and is 5" in ended.err


def test_no_change_is_made_to_a_finished_run(interrupted, call):
    dltrain.resume(interrupted, quiet=True)
    before = read_metric_lines(interrupted)
    assert call("resume", interrupted).code == 0
    edit(interrupted, "train.epochs", 9)
    ended = call("resume", interrupted)
    assert (ended.code, ended.out) == (2, "")
    assert "train.epochs: expected 4, as when the run was started, got 9" in ended.err
    assert read_metric_lines(interrupted) == before


def test_an_edited_run_is_not_reproduced(tmp_path, monkeypatch, call):
    write_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    dltrain.train(dltrain.load("config.yaml"), run_dir="run", quiet=True)
    edit(Path("run"), "optimizer.lr", 0.02)
    ended = call("reproduce", "run")
    assert (ended.code, ended.out) == (2, "")
    assert "optimizer.lr: expected 0.01, as when the run was started, got 0.02" in ended.err
    assert not Path("runs").exists()


# ----------------------------------------------------------------------------------------- seeds


@pytest.fixture
def group(tmp_path, monkeypatch) -> Path:
    """A directory with one trained seed."""
    write_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    dltrain.load("config.yaml")  # registers the built-in components
    return Path("group")


def train_seeds(call, seeds: str, *words: str):
    return call("train", "config.yaml", "--seeds", seeds, "--run-dir", "group", "--quiet", *words)


@pytest.mark.parametrize("seeds", ["0", "0..1", "5"])
@pytest.mark.parametrize("word", ["optimizer.lr=1e-9", "train.steps=11", "model=linear"])
def test_seeds_of_another_config_are_refused_before_anything_is_trained(group, call, seeds, word):
    assert train_seeds(call, "0").code == 0
    before = {path: path.read_bytes() for path in group.rglob("*") if path.is_file()}
    ended = train_seeds(call, seeds, word)
    assert (ended.code, ended.out) == (2, "")
    key = word.partition("=")[0]
    assert f"group holds seeds of another config (seed-0: {key}" in ended.err
    assert ended.err.rstrip().endswith("choose another --run-dir")
    assert {path: path.read_bytes() for path in group.rglob("*") if path.is_file()} == before


def test_more_seeds_of_the_same_config_join_the_group(group, call):
    assert train_seeds(call, "0").code == 0
    assert train_seeds(call, "0..1", "recording.log_every=1").code == 0
    assert {path.name for path in group.iterdir()} == {"seed-0", "seed-1"}


def test_a_seed_under_another_name_is_not_taken_for_it(group, call):
    assert train_seeds(call, "0").code == 0
    (group / "seed-0").rename(group / "seed-3")
    ended = train_seeds(call, "3")
    assert ended.code == 2
    assert "seed was 0 and is 3" in ended.err


def test_python_raises_a_usage_error(group):
    from dltrain.commands.seeds import train_seeds

    train_seeds([dltrain.load("config.yaml")], directory=group, quiet=True)
    with pytest.raises(UsageError, match=r"train\.batch_size was 32 and is 8"):
        train_seeds([dltrain.load("config.yaml", ["train.batch_size=8"])], directory=group)
