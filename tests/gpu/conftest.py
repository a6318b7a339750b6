"""GPU tests run on a GPU or not at all."""

import os

import pytest
import torch
from gpu_config import CONFIG


@pytest.fixture
def cuda() -> torch.device:
    """The GPU; a test without one is skipped, or fails where a GPU was promised."""
    if not torch.cuda.is_available():
        if os.environ.get("DLTRAIN_REQUIRE_GPU"):
            pytest.fail("DLTRAIN_REQUIRE_GPU is set, and torch sees no CUDA device")
        pytest.skip("no CUDA device")
    return torch.device("cuda")


@pytest.fixture
def make(cuda, experiment, tmp_path):
    """A trainer on the GPU, from the config above and overrides."""
    from dltrain.build import build_data, build_machine, build_task, build_trainer
    from dltrain.checkpoint import Checkpoints

    count = 0

    def make_trainer(*overrides, config=CONFIG):
        nonlocal count
        count += 1
        chosen = experiment(config, *overrides)
        machine = build_machine(chosen)
        data = build_data(chosen, machine, print)
        task = build_task(chosen, data.spec, machine)
        checkpoints = Checkpoints(tmp_path / f"checkpoints-{count}")
        trainer = build_trainer(chosen, data, task, machine, checkpoints)
        if chosen.train.device != "cpu":
            assert all(p.is_cuda for p in task.model.parameters())
            assert next(data.train.batches(2)).inputs.is_cuda
        return trainer

    return make_trainer
