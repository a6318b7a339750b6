"""No loss and no metric is a number where there was no sample to take it over."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_data import write_all
from trainers import trainer_for

import dltrain
from dltrain.config import ConfigError
from dltrain.core.batch import Batch
from dltrain.core.data_spec import PADDING
from dltrain.core.errors import RunError
from dltrain.core.registry import DATA, Component
from dltrain.losses.supervised import CrossEntropy

TINY = Path(__file__).parent.parent.parent / "configs" / "tiny"
ONE_OF_EACH_TASK = {
    "supervised": "spirals_mlp",
    "autoencoder": "mnist_vae",
    "gan": "mnist_gan",
    "language_model": "shakespeare_lstm",
    "seq2seq": "seq2seq_reverse",
}
CONFIG = {
    "model": "linear",
    "data": {"name": "holey"},
    "loss": "cross_entropy",
    "optimizer": {"name": "sgd", "lr": 0.1},
    "metrics": ["accuracy", "f1"],
    "train": {"epochs": 1, "batch_size": 16, "device": "cpu"},
    "recording": {"tensorboard": False},
}


class Hollow:
    """A split that says that it has samples."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def batches(self, batch_size, **position):
        return iter(())


@pytest.fixture
def holey(experiment, monkeypatch):
    """A config of a source, one of whose splits has no samples."""

    def make(split, length=0):
        def builder(context, /):
            data = DATA["toy_spirals"].builder(context, samples=60)
            return replace(data, **{split: Hollow(length)})

        monkeypatch.setitem(DATA._components, "holey", Component("data", "holey", builder))
        return experiment(CONFIG)

    return make


@pytest.mark.parametrize("task", ONE_OF_EACH_TASK)
def test_an_evaluation_of_nothing_fails(tmp_path, monkeypatch, task):
    monkeypatch.chdir(tmp_path)
    write_all(tmp_path / "data")
    monkeypatch.setenv("DLTRAIN_DATA", str(tmp_path / "data"))
    experiment = dltrain.load(TINY / f"{ONE_OF_EACH_TASK[task]}.yaml")
    trainer = trainer_for(experiment, tmp_path)
    assert experiment.task.name == task
    trainer.task.model.eval()
    with pytest.raises(RunError, match="the samples of this evaluation have no weight"):
        trainer.task.evaluate(iter(()))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_source_with_an_empty_split_is_refused_before_the_first_step(holey, call, split):
    experiment = holey(split)
    for use in (dltrain.check, dltrain.train):
        with pytest.raises(ConfigError, match=f"data 'holey' has no samples in its {split} split"):
            use(experiment)
    assert not list(Path().glob("runs/*/*/metrics.jsonl"))


def test_a_split_that_gives_no_batches_ends_the_run(holey):
    experiment = holey("test", 7)
    with pytest.raises(RunError, match="the split has no batches"):
        dltrain.train(experiment, run_dir=Path("run"), quiet=True)
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["status"] == "failed"
    assert not [name for name in summary["metrics"] if name.startswith("test/")]


def test_targets_that_are_all_padding_have_no_loss(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_all(tmp_path / "data")
    monkeypatch.setenv("DLTRAIN_DATA", str(tmp_path / "data"))
    trainer = trainer_for(dltrain.load(TINY / "shakespeare_lstm.yaml"), tmp_path)
    trainer.task.model.eval()
    padding = torch.full((2, 9), PADDING)
    batch = Batch(torch.ones_like(padding), padding, torch.arange(2))
    with torch.no_grad(), pytest.raises(RunError, match="all targets are padding"):
        trainer.task.evaluate(iter([batch]))


def test_samples_without_weight_have_no_loss(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(CrossEntropy, "weight", lambda self, targets: torch.zeros(()))
    trainer = trainer_for(experiment(CONFIG, "data=toy_spirals"), tmp_path)
    with pytest.raises(RunError, match="weights all samples with 0"):
        trainer.evaluate(trainer.data.validation, "val")
