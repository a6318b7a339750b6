"""A classifier of sentences through the whole of the loop."""

import pytest
import torch
from trainers import assert_equal_outcomes, interrupt_and_resume, trainer_for, weights

from dltrain import train

CONFIG = {
    "seed": 3,
    "model": {"name": "text_lstm", "hidden_size": 8, "bidirectional": True, "dropout": 0.0},
    "data": {"name": "toy_text", "samples": 143, "validation": 20, "test": 20},
    "loss": "cross_entropy",
    "optimizer": {"name": "sgd", "lr": 0.5, "momentum": 0.0},
    "metrics": ["accuracy", "auroc"],
    "train": {"epochs": 2, "batch_size": 64, "precision": "fp64", "device": "cpu"},
    "recording": {"tensorboard": False},
}


def trained(experiment, tmp_path) -> tuple[torch.Tensor, dict]:
    """Weights and scalars after training."""
    trainer = trainer_for(experiment, tmp_path)
    assert [len(b) for b in trainer.data.train.batches(64)] == [64, 39]
    trainer.fit()
    scalars = {k: v for k, v in trainer.state.last.items() if not k.startswith("system/")}
    return weights(trainer.task.model), scalars


@pytest.mark.parametrize("change", ["train.micro_batch=16", "train.evaluate_batch_size=7"])
def test_nothing_depends_on_how_texts_are_batched(experiment, tmp_path, change):
    """Micro-batches share their batch's padding, evaluation batches have their own."""
    whole, scalars = trained(experiment(CONFIG), tmp_path / "whole")
    cut_weights, cut_scalars = trained(experiment(CONFIG, change), tmp_path / "cut")
    assert torch.allclose(whole, cut_weights, rtol=1e-11, atol=1e-11)
    assert cut_scalars == pytest.approx(scalars, rel=1e-10)


def test_a_stopped_run_goes_on_exactly(experiment, tmp_path, monkeypatch):
    options = (
        *("model.dropout=0.3", "train.epochs=4", "train.batch_size=16", "train.micro_batch=5"),
        *("train.ema=0.9", "train.clip_norm=1.0", "train.precision=fp32"),
        *("schedule={name: one_cycle}", "optimizer={name: adamw, lr: 0.01}"),
        *("checkpoint.every=3 steps", "checkpoint.best=val/accuracy"),
    )
    whole = train(experiment(CONFIG, *options), run_dir=tmp_path / "whole", quiet=True)
    # The second step of the second epoch, of 7.
    again = interrupt_and_resume(experiment(CONFIG, *options), tmp_path / "cut", 9, monkeypatch)
    assert_equal_outcomes(again, whole)
