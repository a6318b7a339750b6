"""A corpus of experiments with a fault each; `check` names it, and nothing else."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest

import dltrain
from dltrain.commands.check import check
from dltrain.config.plugins import load_plugin
from dltrain.core.errors import RunError

PLUGIN = Path(__file__).parent.parent / "faulty_components.py"


@pytest.fixture(autouse=True)
def components():
    load_plugin(PLUGIN)


def found(experiment: dltrain.Experiment, **options) -> list[str]:
    return [finding.kind for finding in check(experiment, **options).findings]


CONFIG = {
    "name": "t",
    "model": {"name": "faulty"},
    "data": {"name": "toy_spirals"},
    "loss": "cross_entropy",
    "optimizer": {"name": "adamw", "lr": 0.01},
    "train": {"epochs": 2, "batch_size": 64, "device": "cpu"},
}


@pytest.mark.parametrize(
    ("fault", "loss", "kinds"),
    [
        ("none", "cross_entropy", []),
        ("softmax", "cross_entropy", ["loss and output"]),
        ("sigmoid", "bce", ["loss and output"]),
        ("none", "bce", []),
        ("large", "cross_entropy", ["initial loss"]),
        ("unused", "cross_entropy", ["unused parameters"]),
        ("dead", "cross_entropy", ["dead parameters"]),
    ],
)
def test_faults_of_a_model(experiment, fault, loss, kinds):
    config = {**CONFIG, "model": {"name": "faulty", "fault": fault}, "loss": loss}
    data = {"name": "toy_spirals"} if loss == "cross_entropy" else {"name": "breast_cancer"}
    assert found(experiment({**config, "data": data})) == kinds


def test_a_model_that_can_learn_one_batch_and_one_that_can_not(experiment):
    config = {**CONFIG, "data": "breast_cancer"}
    healthy = check(experiment(config), overfit=100)
    assert healthy.findings == []
    assert healthy.overfit_loss < healthy.initial_loss / 2
    config["model"] = {"name": "faulty", "fault": "frozen"}
    (finding,) = check(experiment(config), overfit=100).findings
    assert finding.kind == "does not overfit"
    assert "in 100 steps" in finding.message


@pytest.mark.parametrize("label", [-1, 2, 1000])
def test_a_label_that_is_no_class(experiment, label):
    config = {**CONFIG, "data": {"name": "mislabelled", "label": label}}
    with pytest.raises(RunError, match=rf"a label {label}, and there are 2 classes, 0 to 1"):
        check(experiment(config))


def write(path: Path, rows: list[list[object]]) -> None:
    lines = ["a,b,c,y", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def rows(count: int, shares: tuple[float, float] = (0.5, 0.5)) -> list[list[object]]:
    draw = random.Random(0)
    labels = ["no"] * round(count * shares[0]) + ["yes"] * round(count * shares[1])
    return [[draw.gauss(0, 1), draw.gauss(0, 1), draw.gauss(0, 1), label] for label in labels]


TABLE = {**CONFIG, "data": {"name": "csv", "path": "table.csv", "target": "y"}}


def test_a_healthy_table(experiment, tmp_path):
    write(tmp_path / "table.csv", rows(400))
    assert found(experiment(TABLE)) == []


def test_a_column_with_one_value_is_named(experiment, tmp_path):
    write(tmp_path / "table.csv", [[a, 3, c, y] for a, _, c, y in rows(400)])
    (finding,) = check(experiment(TABLE)).findings
    assert finding.kind == "constant inputs"
    assert "'b'" in finding.message
    assert "'a'" not in finding.message


def test_inputs_that_are_all_the_same(experiment, tmp_path):
    write(tmp_path / "table.csv", [[1, 2, 3, y] for *_, y in rows(400)])
    assert "constant inputs" in found(experiment(TABLE))


def test_copies_within_a_split_and_across_splits(experiment, tmp_path):
    once = rows(200)
    write(tmp_path / "table.csv", once * 3)
    assert sorted(found(experiment(TABLE))) == ["duplicate inputs", "leakage", "leakage"]


def test_samples_that_are_in_two_splits(experiment, tmp_path):
    once = rows(300)
    write(tmp_path / "table.csv", once + once[:20])
    result = check(experiment(TABLE))
    assert {finding.kind for finding in result.findings} == {"leakage"}
    assert "samples are in the training split as well" in result.findings[0].message


def texts(tmp_path, sentences, **options):
    lines = [f"{text},{'ab'[n % 2]}" for n, text in enumerate(sentences)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *lines]))
    data = {"name": "text_csv", "path": "texts.csv", "text": ["text"], "label": "label", **options}
    return {**CONFIG, "model": {"name": "text_cnn"}, "data": data}


@pytest.mark.parametrize("options", [{"min_count": 2}, {"max_size": 12}, {"max_tokens": 3}])
def test_different_texts_are_no_copies_though_the_model_takes_them_for_equal(
    experiment, tmp_path, options
):
    starts = ("it is a", "they were")
    sentences = [f"{starts[n % 2]} w{n} x{n} y{n} z{n} u{n} v{n}" for n in range(400)]
    kinds = found(experiment(texts(tmp_path, sentences, **options)))
    assert kinds == ([] if "max_tokens" in options else ["unknown tokens"])


def test_copies_of_texts_are_told_by_the_texts(experiment, tmp_path):
    sentences = [f"it is a w{n} x{n} y{n} z{n} u{n} v{n}" for n in range(200)]
    copies = [text.upper().replace(" ", "  ") for text in sentences]
    kinds = found(experiment(texts(tmp_path, [*sentences, *copies])))
    assert sorted(kinds) == ["duplicate inputs", "leakage", "leakage"]


def test_a_rare_class(experiment, tmp_path):
    write(tmp_path / "table.csv", rows(600, (0.95, 0.05)))
    result = check(experiment(TABLE))
    assert [finding.kind for finding in result.findings] == ["class imbalance"]
    assert "'yes'" in result.findings[0].message


def test_no_room_for_the_checkpoints(experiment, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    assert found(experiment(CONFIG)) == ["disk space"]


def test_a_state_dict_that_is_not_the_model(experiment):
    config = {**CONFIG, "model": {"name": "faulty", "fault": "forgetful"}}
    (finding,) = check(experiment(config)).findings
    assert finding.kind == "save and load"
