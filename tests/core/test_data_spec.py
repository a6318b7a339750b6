"""What a checkpoint says of the data: written and read again, and refused where it can't be."""

import hashlib
import json
from pathlib import Path

import pytest
from small_runs import write_folder

import dltrain
from dltrain.core.data_spec import (
    Column,
    DataSpec,
    ImageInputs,
    TableInputs,
    TextInputs,
    contradiction,
    spec_from_json,
    spec_to_json,
)

IMAGES = DataSpec((2, 8, 8), 3, ImageInputs((0.1, 0.2), (1.0, 0.5)), ("a", "b", "c"), (1, 0, 2))
DEEP = DataSpec((1, 8, 8), 1, ImageInputs((0.5,), (0.1,), deep=True, low=-5, high=4000))
TABLE = DataSpec(
    (3,), 2, TableInputs((Column("x", 1.0, 2.0), Column("y", categories=("p", "q")))), ("0", "00")
)
WORDS = DataSpec((0,), 2, TextInputs("word", ("<pad>", "<unk>", "to", "be")), ("no", "yes"))
FILE = DataSpec((0,), 1, TextInputs("file", ("a", "b"), definition="{}", padding=1, unknown=None))
SPECS = {"images": IMAGES, "deep": DEEP, "table": TABLE, "words": WORDS, "file": FILE}


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_is_read_as_it_was_written(name):
    assert spec_from_json(json.loads(json.dumps(spec_to_json(SPECS[name])))) == SPECS[name]


CONTRADICTIONS = [
    ("images", {"class_names": ["a", "b"], "class_counts": [1, 2]}, "num_outputs is 3"),
    ("images", {"num_outputs": 4}, "num_outputs is 4"),
    ("deep", {"num_outputs": 0}, "num_outputs is 0"),
    ("images", {"class_counts": [1, 2]}, "class_counts has 2 numbers"),
    ("images", {"class_counts": [1, 2, -1]}, "class_counts has -1"),
    ("images", {"class_names": ["a", "b", "a"]}, "class_names has 'a' twice"),
    ("deep", {"target_mean": float("nan")}, "target_mean is nan"),
    ("deep", {"target_std": 0.0}, "target_std is 0.0: expected a finite number above 0"),
    ("deep", {"target_std": float("inf")}, "target_std is inf"),
    ("images", {"input_shape": [3, 8, 8]}, "inputs.mean has 2 numbers, and input_shape 3 channels"),
    ("images", {"input_shape": [64]}, "input_shape is [64]: images have"),
    ("images", {"input_shape": [2, 8, 0]}, "input_shape is [2, 8, 0]: images have"),
    ("images", {"inputs.std": [1.0]}, "inputs.std has 1 numbers"),
    ("images", {"inputs.std": [1.0, -1.0]}, "inputs.std is -1.0"),
    ("images", {"inputs.std": [1.0, float("nan")]}, "inputs.std is nan"),
    ("images", {"inputs.mean": [0.0, float("inf")]}, "inputs.mean is inf"),
    ("images", {"inputs.high": 4000}, "inputs.low is 0 and inputs.high is 4000: expected 0 and"),
    ("deep", {"inputs.low": 4000}, "inputs.low is 4000 and inputs.high is 4000"),
    ("deep", {"inputs.high": 2**40}, "expected integers of 32 bits"),
    ("table", {"input_shape": [4]}, "input_shape is [4], and inputs.columns have 3 features"),
    ("table", {"inputs.columns.1.categories": ["p"]}, "inputs.columns have 2 features"),
    ("table", {"inputs.columns.1.categories": ["p", "p"]}, "categories has 'p' twice"),
    ("table", {"inputs.columns.1.name": "x"}, "inputs.columns has 'x' twice"),
    ("table", {"inputs.columns.0.std": 0.0}, "inputs.columns.'x'.std is 0.0"),
    ("table", {"inputs.columns.0.mean": float("nan")}, "inputs.columns.'x'.mean is nan"),
    ("table", {"inputs.columns.0.name": "\udcff"}, r"'\udcff', which is not UTF-8"),
    ("words", {"input_shape": [1, 1]}, "input_shape is [1, 1]: texts have"),
    ("words", {"inputs.unknown": 4}, "inputs.unknown is 4, and inputs.vocabulary has 4 tokens"),
    ("words", {"inputs.padding": -1}, "inputs.padding is -1"),
    ("words", {"inputs.unknown": 0}, "inputs.unknown is 0: expected a token other than"),
    ("words", {"inputs.unknown": None}, "inputs.unknown is None: expected a token other than"),
    ("words", {"inputs.vocabulary": []}, "inputs.padding is 0, and inputs.vocabulary has 0"),
    ("words", {"inputs.vocabulary": ["a", "b", "b"]}, "inputs.vocabulary has 'b' twice"),
    ("words", {"inputs.max_tokens": 0}, "inputs.max_tokens is 0"),
    ("words", {"inputs.definition": "{}"}, "inputs.tokenizer is 'word'"),
    ("file", {"inputs.definition": ""}, "inputs.tokenizer is 'file'"),
    ("words", {"inputs.columns": []}, "inputs.columns is empty"),
    ("images", {"inputs.kind": "sound"}, "spec.inputs"),
    ("images", {"num_outputs": "many"}, "spec.num_outputs"),
    ("table", {"inputs.quote": "''"}, "spec.inputs.table.quote"),
]


def changed(value, changes: dict):
    """JSON with other values at dotted places."""
    for place, new in changes.items():
        *way, last = place.split(".")
        at = value
        for key in way:
            at = at[int(key) if isinstance(at, list) else key]
        at[last] = new
    return value


@pytest.mark.parametrize(("name", "changes", "message"), CONTRADICTIONS)
def test_a_spec_that_contradicts_itself_is_not_read(name, changes, message):
    with pytest.raises(ValueError, match=r"^spec") as caught:
        spec_from_json(changed(spec_to_json(SPECS[name]), changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def rewrite(run: Path, changes: dict) -> None:
    """Changes the spec of a run's checkpoints, and signs them again."""
    for state in run.glob("checkpoints/step-*/state.json"):
        content = json.loads(state.read_text())
        changed(content["spec"], changes)
        state.write_text(json.dumps(content))
        manifest = json.loads(state.with_name("manifest.json").read_text())
        content = state.read_bytes()
        manifest["files"]["state.json"] = {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        state.with_name("manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs.std": [-1.0]}, "spec: inputs.std is -1.0: expected a finite number above 0"),
        ({"class_names": ["0", "0", "2"]}, "spec: class_names has '0' twice"),
        ({"input_shape": [1, 8, 9]}, "(8, 64); expected float32 (8, 72)"),
    ],
)
def test_no_command_uses_a_run_whose_spec_contradicts_it(
    tmp_path, monkeypatch, call, changes, message
):
    write_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    dltrain.train(dltrain.load("config.yaml"), run_dir="run", quiet=True)
    rewrite(tmp_path / "run", changes)
    for words in (["predict", "run", "x.png"], ["evaluate", "run"], ["serve", "run", "--port", 0]):
        ended = call(*words)
        assert (ended.code, ended.out) == (1, "")
        assert message in ended.err
        assert len(ended.err.splitlines()) == 1


def test_data_of_a_plugin_must_not_contradict_itself_either(tmp_path, monkeypatch, call):
    (tmp_path / "plugin.py").write_text(
        "from dataclasses import replace\n"
        "from dltrain import DATA\n\n\n"
        "@DATA.register\n"
        "def odd(context, /):\n"
        '    """Two classes, and three outputs."""\n'
        '    data = DATA["toy_blobs"].builder(context)\n'
        "    return replace(data, spec=replace(data.spec, num_outputs=9))\n"
    )
    (tmp_path / "config.yaml").write_text(
        "model: linear\ndata: odd\nloss: cross_entropy\noptimizer: {name: sgd, lr: 0.1}\n"
        "train: {steps: 1, batch_size: 8, device: cpu}\n"
    )
    monkeypatch.chdir(tmp_path)
    ended = call("train", "config.yaml", "--plugin", "plugin.py")
    assert (ended.code, ended.out) == (2, "")
    assert "data 'odd' gives a spec that contradicts itself: num_outputs is 9" in ended.err
    assert contradiction(IMAGES) is None
