"""From a file to an experiment, and back."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from small_components import FULL_CONFIG, Augment, Order

from dltrain.config import Experiment, load
from dltrain.config.settings import (
    CheckpointSettings,
    EarlyStopSettings,
    RecordingSettings,
    TrainSettings,
)
from dltrain.core.registry import MODELS

pytestmark = pytest.mark.usefixtures("components")


def test_what_the_file_leaves_out_has_its_default(write):
    experiment = load(write(FULL_CONFIG, "configs/small.v1.yaml"))
    assert experiment.name == "small.v1"
    assert experiment.seed == 0
    assert experiment.task.name == "supervised"
    assert experiment.schedule.name == "constant"
    assert experiment.metrics == ()
    assert experiment.train == TrainSettings(epochs=2)
    assert experiment.checkpoint == CheckpointSettings()
    assert experiment.early_stop is None
    assert experiment.recording == RecordingSettings()


def test_values_have_the_types_of_the_signature(write):
    overrides = [
        "data={order: shuffled, root: here, augment: {shift: 1, flip: true}, weights: {a: 1}}",
        "optimizer.lr=1",
        "early_stop.monitor=val/loss",
        "metrics=[accuracy, {name: f1, average: micro}]",
    ]
    experiment = load(write(FULL_CONFIG), overrides)
    assert experiment.data.options == {
        "root": Path("here"),
        "order": Order.SHUFFLED,
        "augment": Augment(shift=1, flip=True),
        "label": "digit",
        "weights": {"a": 1.0},
    }
    assert isinstance(experiment.optimizer.options["lr"], float)
    assert experiment.early_stop == EarlyStopSettings(monitor="val/loss")
    assert [choice.options for choice in experiment.metrics] == [{}, {"average": "micro"}]


def test_a_choice_builds_its_component(write):
    experiment = load(write(FULL_CONFIG), ["model.kernel=[3, 5]"])
    assert experiment.model.component is MODELS["cnn"]
    assert experiment.model.build("spec") == ("spec", (8, 16), "relu", 0.5, (3, 5))


def test_options_without_a_name_belong_to_the_default_component(write):
    experiment = load(write(FULL_CONFIG + "schedule: {warmup: 0.1}"))
    assert experiment.schedule.name == "constant"
    assert experiment.schedule.options == {"warmup": 0.1}


LABELS = ["1e-3", "on", "null", "1_000", "010", "é 😀", "a: b", "", " x", "-", "<<", "=", "~"]
LABELS += ["2024-01-01", "two\nlines", "it's", ".nan", "true", "12:30:00", "# no", "&a", "!x"]


@pytest.mark.parametrize("label", LABELS)
def test_the_resolved_config_is_the_same_experiment(label, write):
    overrides = [
        f"data.label={json.dumps(label, ensure_ascii=False)}",
        "data.root=a/b",
        "data.order=shuffled",
        "data.augment.shift=2",
        "early_stop.monitor=val/loss",
        "metrics=[f1, accuracy]",
        "optimizer.lr=1e-8",
        "model.kernel=[1, 2]",
    ]
    experiment = load(write(FULL_CONFIG, "first.yaml"), overrides)
    assert experiment.data.options["label"] == label
    text = experiment.to_yaml()
    again = load(write(text, "second.yaml"))
    assert again == experiment
    assert again.name == "first"
    assert again.to_yaml() == text


def test_the_resolved_config_leaves_nothing_out(write):
    experiment = load(write(FULL_CONFIG))
    resolved = experiment.to_dict()
    assert list(resolved) == [f.name for f in fields(Experiment) if f.name != "tree"]
    assert resolved["model"] == {
        "name": "cnn",
        "channels": [8, 16],
        "activation": "relu",
        "dropout": 0.5,
        "kernel": 3,
    }
    assert resolved["data"]["root"] is None
    assert resolved["data"]["order"] == "sorted"
    assert resolved["train"].keys() == {f.name for f in fields(TrainSettings)}
    assert resolved["early_stop"] is None
    assert json.loads(json.dumps(resolved)) == resolved
    assert "channels: [8, 16]\n" in experiment.to_yaml()


def test_experiments_differ_by_what_they_say(write):
    path = write(FULL_CONFIG)
    assert load(path) == load(str(path), [])
    assert load(path) != load(path, ["seed=1"])
    assert load(path) != load(path, ["model.dropout=0.1"])


def test_later_stages_complain_at_the_place(write):
    path = write(FULL_CONFIG + "metrics: [f1]\ncheckpoint: {best: val/acuracy}\n")
    experiment = load(path, ["train.device=cuda"])
    places = {
        "checkpoint.best": "config.yaml:7:20: checkpoint.best: no\n"
        "    7 | checkpoint: {best: val/acuracy}\n"
        "      |                    ^^^^^^^^^^^",
        "checkpoint.keep": "config.yaml:7:1: checkpoint.keep: no\n"
        "    7 | checkpoint: {best: val/acuracy}\n"
        "      | ^^^^^^^^^^",
        "metrics.0": "config.yaml:6:11: metrics.0: no\n    6 | metrics: [f1]\n      |           ^^",
        "model": "config.yaml:1:1: model: no\n"
        "    1 | model: {name: cnn, channels: [8, 16]}\n"
        "      | ^^^^^",
        "early_stop.monitor": "config.yaml:1:1: early_stop.monitor: no",
        "train.device": "command line: train.device=cuda: train.device: no",
    }
    assert {key: str(experiment.problem(key, "no")) for key in places} == places


def test_nothing_in_yaml_imports(write):
    text = FULL_CONFIG.replace("data: digits", "data: {name: digits, label: os.system}")
    assert load(write(text)).data.options["label"] == "os.system"
    assert yaml.safe_load(load(write(text)).to_yaml())["data"]["label"] == "os.system"


@pytest.mark.parametrize(("file", "name"), [("my run.yaml", "my_run"), ("é-中.yaml", "é-中")])
def test_a_file_of_any_name_names_its_runs(tmp_path, components, file, name):
    path = tmp_path / file
    path.write_text(FULL_CONFIG, encoding="utf-8")
    assert load(path).name == name
