"""Configs that come with dltrain, by their names; files of the user's own come first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import dltrain
from dltrain.commands.init import init_example
from dltrain.config import ConfigError, json_schema
from dltrain.config.shipped import example_names, shipped_configs
from dltrain.core.errors import UsageError

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = (CONFIGS / "mnist_mlp.yaml").read_text(encoding="utf-8")
MINE = f"{SHIPPED}early_stop: {{monitor: val/loss, patience: 7}}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def is_mine(experiment: dltrain.Experiment) -> bool:
    return experiment.early_stop is not None


def test_a_name_is_that_of_a_shipped_config():
    by_name, by_path = dltrain.load("mnist_mlp"), dltrain.load(CONFIGS / "mnist_mlp.yaml")
    assert by_name == by_path
    assert dltrain.load("tiny/mnist_mlp", ["seed=3"]).seed == 3
    assert dltrain.load(Path("mnist_mlp")) == by_path


def test_every_shipped_config_has_a_name():
    named = {name: path for name, path in shipped_configs().items() if "sweeps" not in name}
    assert sorted(named.values()) == sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("tiny/*.yaml")])
    for name in named:
        assert dltrain.load(name).name


@pytest.mark.parametrize("file", ["mnist_mlp", "mnist_mlp.yaml"])
def test_a_file_in_the_working_directory_comes_first(folder, file):
    (folder / "mnist_mlp").mkdir()  # a folder is no config
    assert not is_mine(dltrain.load("mnist_mlp"))
    (folder / "mnist_mlp").rmdir()
    (folder / file).write_text(MINE)
    assert is_mine(dltrain.load("mnist_mlp"))


def test_a_link_to_nowhere_is_not_replaced_by_a_shipped_config(folder):
    (folder / "mnist_mlp").symlink_to("absent")
    with pytest.raises(UsageError, match="can't read mnist_mlp: No such file"):
        dltrain.load("mnist_mlp")


def test_the_suffix_may_be_left_out(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "v1.2.yaml").write_text(MINE)
    assert is_mine(dltrain.load("deep/v1.2"))
    assert is_mine(dltrain.load(folder / "deep" / "v1.2"))


def test_a_config_extends_a_shipped_one_by_name(folder):
    (folder / "mine.yaml").write_text("extends: mnist_mlp\nseed: 5")
    mine = dltrain.load("mine")
    assert (mine.name, mine.seed, mine.model.name) == ("mnist_mlp", 5, "mlp")
    (folder / "mnist_mlp.yaml").write_text(MINE)
    assert is_mine(dltrain.load("mine"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mnist_mpl", "; did you mean 'mnist_mlp'? Expected a file or a config that comes with "),
        ("nothing", ". Expected a file or a config that comes with dltrain: cifar10_resnet, "),
        ("configs/mnist_mlp.yaml", "; did you mean 'mnist_mlp'?"),
        ("configs/tiny/mnist_mlp.yaml", "; did you mean 'tiny/mnist_mlp'?"),
        ("nothing.yaml", ""),
        ("x" * 300, None),
    ],
)
def test_an_unknown_name_gets_suggestions(call, name, hint):
    ended = call("check", name)
    assert (ended.code, ended.out) == (2, "")
    if hint is None:
        assert ended.err == f"can't read {name}: File name too long\n"
    else:
        start = f"can't read {name}: No such file or directory{hint}"
        assert ended.err.startswith(start)
        assert (ended.err == f"{start}\n") == ("Expected" not in hint)
        assert "tiny" not in ended.err.removeprefix(start)


def test_an_unknown_name_is_an_error_where_it_is_extended(folder):
    (folder / "mine.yaml").write_text("seed: 1\nextends: mnist_mpl")
    message = r"mine.yaml:2:10: extends: can't read mnist_mpl: .*; did you mean 'mnist_mlp'\?"
    with pytest.raises(ConfigError, match=message):
        dltrain.load("mine")


def test_mistakes_in_a_shipped_config_are_shown_where_it_lies(monkeypatch):
    mistake = dltrain.load("mnist_mlp").problem("data.validation", "too many")
    assert str(mistake).startswith(f"{CONFIGS / 'mnist_mlp.yaml'}:6:33: data.validation: too many")
    monkeypatch.chdir(CONFIGS.parent)
    mistake = dltrain.load("mnist_mlp").problem("data.validation", "too many")
    assert str(mistake).startswith("configs/mnist_mlp.yaml:6:33: data.validation: too many")


def test_an_example_is_written_to_be_edited(call, folder):
    ended = call("init", "--example", "mnist_mlp")
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "  dltrain train mnist_mlp.yaml"
    written = (folder / "mnist_mlp.yaml").read_text(encoding="utf-8")
    assert written.splitlines() == SHIPPED.splitlines()[1:]
    (folder / "mnist_mlp.yaml").write_text(MINE)
    refused = call("init", "--example", "mnist_mlp")
    assert (refused.code, refused.err) == (
        2,
        "mnist_mlp.yaml: already exists; --force replaces it, -o FILE names another\n",
    )
    assert is_mine(dltrain.load("mnist_mlp"))
    assert call("init", "--example", "mnist_mlp", "--force").code == 0
    assert not is_mine(dltrain.load("mnist_mlp"))


@pytest.mark.parametrize("name", example_names())
def test_every_example_loads_as_the_shipped_config(name):
    expected = dltrain.load(name).to_dict()
    written = init_example(name)
    assert dltrain.load(written.config).to_dict() == expected


def test_an_example_names_the_schema_that_lies_above_it(call, folder):
    (folder / "dltrain.schema.json").write_text(json.dumps(json_schema()))
    (folder / "deep").mkdir()
    ended = call("init", "--example", "mnist_mlp", "-o", "deep/mine.yaml", "--json")
    assert json.loads(ended.out) == {"config": "deep/mine.yaml", "example": "mnist_mlp"}
    first = (folder / "deep" / "mine.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=../dltrain.schema.json"
    assert yaml.safe_load((folder / "deep" / "mine.yaml").read_text())["name"] == "mnist_mlp"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--example", "mnist_mpl"], "unknown example 'mnist_mpl'; did you mean 'mnist_mlp'? "),
        (["--example", "tiny/mnist_mlp"], "unknown example 'tiny/mnist_mlp'; did you mean"),
        (["--example", "mnist_mlp", "-o", "no/x.yaml"], "no/x.yaml: there is no folder no"),
        (["--example", "mnist_mlp", "data"], "--example takes no PATH"),
        (["--example", "mnist_mlp", "--target", "x"], "--example takes no PATH and no options"),
        ([], "expected PATH to your data, or --example NAME"),
    ],
)
def test_what_init_can_not_do_with_an_example(call, folder, words, message):
    ended = call("init", *words)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert list(folder.iterdir()) == []
