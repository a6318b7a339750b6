"""Fixtures of the GPU tests, which are skipped without a GPU unless DLTRAIN_GPU_STAND_IN is set."""

import os

import pytest
import torch
from gpu_config import CONFIG, DEVICE, STAND_IN
from gpu_steps import is_on_gpu


@pytest.fixture
def cuda(monkeypatch) -> torch.device:
    """The GPU; without one the test is skipped, or fails if DLTRAIN_REQUIRE_GPU is set."""
    if STAND_IN:
        import stand_in

        assert not os.environ.get("DLTRAIN_REQUIRE_GPU"), "a stand-in is not a GPU"
        stand_in.install(monkeypatch)
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if os.environ.get("DLTRAIN_REQUIRE_GPU"):
            pytest.fail("DLTRAIN_REQUIRE_GPU is set, but torch finds no CUDA device")
        pytest.skip("no CUDA device")
    return torch.device("cuda")


@pytest.fixture
def requires_cuda(cuda):
    """Skip the test if a CPU replaces the GPU."""
    if STAND_IN:
        pytest.skip("not possible on a CPU")


@pytest.fixture
def make_trainer(cuda, experiment, tmp_path):
    """Factory of trainers from a config and overrides, on the GPU by default."""
    from dltrain.build import build_data, build_runtime, build_task, build_trainer
    from dltrain.checkpoints.store import CheckpointStore
    from dltrain.training.device import make_deterministic

    count = 0

    def make(*overrides, config=CONFIG):
        nonlocal count
        count += 1
        loaded = experiment(config, *overrides)
        runtime = build_runtime(loaded)
        data = build_data(loaded, runtime, print)
        task = build_task(loaded, data.spec, runtime)
        checkpoints = CheckpointStore(tmp_path / f"checkpoints-{count}")
        trainer = build_trainer(loaded, data, task, runtime, checkpoints)
        if loaded.train.device != "cpu":
            assert trainer.device.type == runtime.precision.autocast().device == DEVICE
            assert all(is_on_gpu(p) for p in task.model.parameters())
            (batch,) = data.train.batches(len(data.train))
            assert is_on_gpu(batch.inputs)
            assert is_on_gpu(batch.targets)
        return trainer

    yield make
    make_deterministic(False)


@pytest.fixture
def images(tmp_path):
    """The data of the config `IMAGES`: 333 training images and 40 test images."""
    from small_data import write_images

    write_images(tmp_path / "images", train=333, test=40, side=14, classes=3)
