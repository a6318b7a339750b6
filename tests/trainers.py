"""Trainers of experiments, and interrupted runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from dltrain import resume, train
from dltrain.build import build_data, build_runtime, build_task, build_trainer
from dltrain.checkpoints.store import CheckpointStore
from dltrain.config import Experiment
from dltrain.core.errors import InterruptedRunError
from dltrain.loggers import Logger
from dltrain.rundir.summary import Summary
from dltrain.training.trainer import Trainer


def trainer_for(experiment: Experiment, tmp_path: Path, loggers: Sequence[Logger] = ()) -> Trainer:
    """Build the trainer of an experiment, with its checkpoints in the folder."""
    runtime = build_runtime(experiment)
    data = build_data(experiment, runtime, print)
    task = build_task(experiment, data.spec, runtime)
    checkpoints = CheckpointStore(tmp_path / "checkpoints")
    return build_trainer(experiment, data, task, runtime, checkpoints, loggers)


def weights(module: torch.nn.Module) -> torch.Tensor:
    """Return all parameters as one vector."""
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def interrupt_and_resume(
    experiment: Experiment, run: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> Summary:
    """Interrupt training after a step, then resume it to the end."""
    original = Trainer._after_step

    def interrupt(trainer):
        if trainer.state.step == step:
            trainer.stop_signal = 15
        original(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_after_step", interrupt)
        with pytest.raises(InterruptedRunError):
            train(experiment, run_dir=run, quiet=True)
    return resume(run, quiet=True)


def assert_equal_outcomes(one: Summary, other: Summary) -> None:
    """Assert equal weights and scalars, except scalars that depend on time."""
    assert one.weights_sha256 == other.weights_sha256
    assert {k: v for k, v in one.metrics.items() if not k.startswith("system/")} == {
        k: v for k, v in other.metrics.items() if not k.startswith("system/")
    }
