"""Public interface of `dltrain`, and user-defined components."""

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from small_runs import write_folder

import dltrain
from dltrain.config.plugins import load_plugin
from dltrain.core.registry import MODELS

PLUGIN = '''\
from torch import Tensor, nn
from dltrain import MODELS, DataSpec

@MODELS.register
def two_layers(spec: DataSpec, /, *, width: int = 16) -> nn.Module:
    """Two layers.

    Args:
        width: Size of the first layer.
    """
    first = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.ReLU())
    first(nn.Parameter().new_zeros(1, *spec.input_shape))
    return nn.Sequential(first, nn.Linear(width, spec.num_outputs))
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Working directory with a plug-in whose components are unregistered after the test."""
    write_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    load_plugin(tmp_path / write_plugin(tmp_path, "x = 1", "empty.py"))  # registers the built-ins
    monkeypatch.setattr(MODELS, "_components", dict(MODELS))
    write_plugin(tmp_path, PLUGIN, "my models.py")
    return tmp_path


def write_plugin(folder, text: str, name: str) -> str:
    (folder / name).write_text(text)
    return name


def test_importing_it_does_not_import_torch():
    code = "import sys, dltrain; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_every_public_name_resolves():
    assert len(set(dltrain.__all__)) == len(dltrain.__all__)
    for name in dltrain.__all__:
        assert getattr(dltrain, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = dltrain.trian


def test_completion_and_type_checkers_see_every_public_name():
    code = "import dltrain; print(*dir(dltrain))"  # before any of them is imported
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {*dltrain.__all__, "__version__"} <= set(done.stdout.split())
    tree = ast.parse(Path(dltrain.__file__).read_text(encoding="utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.asname: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == alias.asname
    }
    assert sorted(imported) == sorted(dltrain.__all__)
    for name, module in imported.items():
        assert getattr(import_module(module), name) is getattr(dltrain, name)


def test_a_custom_model_trains_from_the_command_line(call, folder):
    assert len(PLUGIN.splitlines()) < 15
    words = ["config.yaml", "model={name: two_layers, width: 4}", "train.steps=80"]
    ended = call("train", *words, "--plugin", "my models.py", "--json", "--quiet")
    assert ended.code == 0
    summary = json.loads(ended.out)
    assert summary["metrics"]["test/accuracy"] > 0.9
    record = json.loads((folder / summary["run"] / "record.json").read_text())
    assert record["plugins"] == ["my models.py"]
    output = call("list", "models", "two_layers", "--plugin", "my models.py").out
    assert "  width  int, default 16\n      Size of the first layer.\n" in output


def test_a_custom_model_trains_from_python(folder):
    load_plugin(folder / "my models.py")
    experiment = dltrain.load("config.yaml", ["model=two_layers"])
    summary = dltrain.train(experiment, quiet=True)
    assert summary.status == "done"
    assert dltrain.evaluate(folder / summary.run).metrics["accuracy"] == pytest.approx(
        summary.metrics["test/accuracy"]
    )


def test_a_run_without_its_plugin_reports_how_it_was_started(call, folder, monkeypatch):
    words = ["config.yaml", "model=two_layers", "--plugin", "my models.py", "--run-dir", "run"]
    assert call("train", *words, "--quiet").code == 0
    # as in another process and another directory
    monkeypatch.setattr(
        MODELS, "_components", {k: v for k, v in MODELS.items() if k != "two_layers"}
    )
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    (folder / "run" / "summary.json").unlink()
    for verb in ("resume", "evaluate"):
        ended = call(verb, folder / "run")
        assert (ended.code, ended.out) == (2, "")
        assert "model.name: unknown model 'two_layers'" in ended.err
        plugin = folder / "my models.py"
        assert ended.err.splitlines()[-1] == f"the run was started with --plugin '{plugin}'"
