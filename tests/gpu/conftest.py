"""GPU tests run on a GPU or not at all; a CPU stands in only where that is asked for by name."""

import os

import pytest
import torch
from gpu_config import CONFIG, DEVICE, STAND_IN
from gpu_steps import is_on_gpu


@pytest.fixture
def cuda(monkeypatch) -> torch.device:
    """The GPU; a test without one is skipped, or fails where a GPU was promised."""
    if STAND_IN:
        import stand_in

        assert not os.environ.get("DLTRAIN_REQUIRE_GPU"), "a stand-in is no GPU"
        stand_in.install(monkeypatch)
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if os.environ.get("DLTRAIN_REQUIRE_GPU"):
            pytest.fail("DLTRAIN_REQUIRE_GPU is set, and torch sees no CUDA device")
        pytest.skip("no CUDA device")
    return torch.device("cuda")


@pytest.fixture
def only_cuda(cuda):
    """For tests of what a CPU has no counterpart of."""
    if STAND_IN:
        pytest.skip("the CPU can't stand in for this")


@pytest.fixture
def make(cuda, experiment, tmp_path):
    """A trainer from a config and overrides, on the GPU unless they say otherwise."""
    from dltrain.build import build_data, build_runtime, build_task, build_trainer
    from dltrain.checkpoints.store import CheckpointStore
    from dltrain.training.device import make_deterministic

    count = 0

    def make_trainer(*overrides, config=CONFIG):
        nonlocal count
        count += 1
        chosen = experiment(config, *overrides)
        runtime = build_runtime(chosen)
        data = build_data(chosen, runtime, print)
        task = build_task(chosen, data.spec, runtime)
        checkpoints = CheckpointStore(tmp_path / f"checkpoints-{count}")
        trainer = build_trainer(chosen, data, task, runtime, checkpoints)
        if chosen.train.device != "cpu":
            assert trainer.device.type == runtime.precision.autocast().device == DEVICE
            assert all(is_on_gpu(p) for p in task.model.parameters())
            (batch,) = data.train.batches(len(data.train))
            assert is_on_gpu(batch.inputs)
            assert is_on_gpu(batch.targets)
        return trainer

    yield make_trainer
    make_deterministic(False)


@pytest.fixture
def images(tmp_path):
    """What the config `IMAGES` reads: 333 images for training and 40 for the test."""
    from small_data import write_images

    write_images(tmp_path / "images", train=333, test=40, side=14, classes=3)
