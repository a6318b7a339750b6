"""Trained runs, and services of them."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from services import CODES
from small_data import write_sentences
from small_runs import CONFIG, write_folder

import dltrain
from dltrain.commands.predict import Predictor
from dltrain.config.plugins import register_builtins
from dltrain.serving.app import make_app
from dltrain.serving.limits import Limits
from dltrain.serving.metrics import Metrics
from dltrain.serving.pages import ModelInfo

SMALL = {"optimizer": {"name": "adamw", "lr": 0.02}, "recording": {"tensorboard": False}}
TEXTS = SMALL | {
    "model": {"name": "text_lstm", "hidden_size": 8, "layers": 1, "dropout": 0.0},
    "data": {"name": "sst2", "root": "sst2"},
    "loss": "cross_entropy",
    "train": {"epochs": 1, "batch_size": 8, "device": "cpu"},
}
ROWS = SMALL | {
    "model": "linear",
    "data": {"name": "csv", "path": "rows.csv", "target": "price", "target_kind": "value"},
    "loss": "mse",
    "train": {"epochs": 1, "batch_size": 32, "device": "cpu"},
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Runs that were trained on images, on texts and on the rows of two tables."""
    folder = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        register_builtins()
        write_folder(folder)
        write_sentences(folder / "sst2")
        random = np.random.default_rng(0)
        lines = ["weight,colour,price"]
        for _ in range(100):
            colour = random.choice(["red", "green", "blue"])
            lines.append(f"{random.normal(70, 10):.3f},{colour},{random.normal(1e3, 50):.2f}")
        Path("rows.csv").write_text("\n".join(lines))
        lines = ["zip,flag,weight,price"]
        for number in range(120):
            zip_code, flag = CODES[number % len(CODES)], str(number % 2 == 0)
            lines.append(f"{zip_code},{flag},{number % 7},{number % len(CODES) * 10}")
        Path("codes.csv").write_text("\n".join(lines))
        codes = ROWS | {"data": ROWS["data"] | {"path": "codes.csv"}}
        configs = {"images": CONFIG, "texts": TEXTS, "rows": ROWS, "codes": codes}
        for name, config in configs.items():
            Path("config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
            dltrain.train(dltrain.load("config.yaml"), run_dir=Path(name), quiet=True)
        yield folder


@pytest.fixture
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture(scope="session")
def models(folder):
    return {name: Predictor(folder / name) for name in ("images", "texts", "rows", "codes")}


@pytest.fixture
def service(models):
    """Makes a service of a run, or of another model."""

    def make(model, hosts=None, metrics=None, **limits):
        model = models[model] if isinstance(model, str) else model
        info = ModelInfo("name", "run", "step-1", "supervised", "cpu", "class")
        return make_app(model, info, Limits(**limits), metrics or Metrics(), hosts)

    return make
