"""The JSON Schema that editors read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_components import FULL_CONFIG

from dltrain.config import json_schema, load, plugins
from dltrain.core.registry import MODELS, REGISTRIES

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("tiny/*.yaml")])


@pytest.mark.usefixtures("components")
def test_every_key_and_component_is_described():
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    properties = schema["properties"]
    assert list(properties)[:3] == ["extends", "name", "seed"]
    assert all(key["description"].endswith(".") for key in properties.values())
    bare, with_options, nameless = properties["data"]["anyOf"]
    assert bare == {"const": "digits", "description": "Digits."}
    assert with_options["required"] == ["name"]
    assert with_options["properties"]["order"]["enum"] == ["sorted", "shuffled"]
    assert with_options["properties"]["order"]["default"] == "sorted"
    augment = with_options["properties"]["augment"]["anyOf"][0]
    assert augment["properties"]["shift"]["exclusiveMinimum"] == 0
    assert augment["required"] == ["shift"]
    assert nameless == {"type": "object", "not": {"required": ["name"]}}
    assert properties["schedule"]["default"] == "constant"
    train = properties["train"]
    assert train["properties"]["batch_size"]["default"] == 128
    assert "samples" in train["properties"]["batch_size"]["description"].lower()
    assert schema["then"]["required"] == ["model", "data", "loss", "optimizer", "train"]


@pytest.mark.usefixtures("components")
def test_a_component_with_a_required_option_has_no_bare_name():
    branches = json_schema()["properties"]["model"]["anyOf"]
    assert [branch["const"] for branch in branches if "const" in branch] == ["cnn"]


def test_it_is_json_without_references_for_the_real_components():
    plugins.register_builtins()
    text = json.dumps(json_schema())
    assert "$ref" not in text
    assert set(MODELS) <= set(json.loads(text)["properties"]["model"]["anyOf"][0].values()) | {
        branch["properties"]["name"]["const"]
        for branch in json.loads(text)["properties"]["model"]["anyOf"]
        if "properties" in branch
    }
    assert all(len(registry) for registry in REGISTRIES.values())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_it_accepts_the_configs(path):
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    experiment = load(path)
    jsonschema.Draft202012Validator(json_schema()).validate(experiment.to_dict())


@pytest.mark.usefixtures("components")
@pytest.mark.parametrize("override", ["model.channels=[0]", "modle=cnn", "train.steps=5",
                                      "data.augment.flip=true", "loss=mes"])  # fmt: skip
def test_it_refuses_what_load_refuses(override, write):
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    from dltrain.config.compose import compose
    from dltrain.config.tree import plain

    validator = jsonschema.Draft202012Validator(json_schema())
    tree, _ = compose(write(FULL_CONFIG), [])
    assert validator.is_valid(plain(tree))
    tree, _ = compose(write(FULL_CONFIG), [override])
    assert not validator.is_valid(plain(tree))


def test_the_schema_in_the_repository_is_the_one_of_the_code():
    """The files in configs/ point editors at it; `dltrain schema > dltrain.schema.json` renews."""
    result = subprocess.run(
        [sys.executable, "-m", "dltrain", "schema"], capture_output=True, text=True, check=True
    )
    path = Path(__file__).parents[2] / "dltrain.schema.json"
    assert path.read_text(encoding="utf-8") == result.stdout
