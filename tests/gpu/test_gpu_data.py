"""Batches on a GPU equal those on a CPU."""

import pytest
import torch
from gpu_config import CONFIG, IMAGES
from gpu_steps import is_on_gpu, weights

from dltrain.data import streaming

pytestmark = pytest.mark.gpu

STREAMING = CONFIG | {
    "model": {"name": "cnn", "channels": [4]},
    "data": {
        "name": "image_folder",
        "root": "my_images",
        "size": 32,
        "augment": {"flip": True, "crop": 2},
    },
}


@pytest.fixture
def folder_images(tmp_path):
    from small_data import write_color_images

    write_color_images(tmp_path / "my_images", 20)


def assert_equal_batches(on_gpu, on_cpu, atol):
    for actual, expected in zip(on_gpu, on_cpu, strict=True):
        assert torch.equal(actual.index.cpu(), expected.index.cpu())
        assert torch.equal(actual.targets.cpu(), expected.targets.cpu())
        assert torch.allclose(actual.inputs.cpu(), expected.inputs.cpu(), rtol=0, atol=atol)


@pytest.mark.parametrize("offset", [0, 3])
def test_in_memory_images_equal_those_on_the_cpu(make_trainer, images, offset):
    on_gpu, on_cpu = make_trainer(config=IMAGES), make_trainer("train.device=cpu", config=IMAGES)
    assert is_on_gpu(on_gpu.data.train.samples)
    assert on_gpu.data.train.samples.dtype == torch.uint8
    batches = [list(t.data.train.batches(64, epoch=2, offset=offset)) for t in (on_gpu, on_cpu)]
    assert len(batches[0]) == 5 - offset
    # Rotated images are interpolated, so pixels differ by rounding.
    assert_equal_batches(*batches, atol=1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_streaming_images_equal_those_on_the_cpu(
    make_trainer, requires_cuda, folder_images, workers, monkeypatch
):
    pinned, make_copier = [], streaming._copier

    def make_recording_copier(device):
        copy = make_copier(device)

        def record_and_copy(samples):
            pinned.append(samples.is_pinned())
            return copy(samples)

        return record_and_copy

    on_cpu = make_trainer("train.device=cpu", "data.workers=0", config=STREAMING)
    expected = list(on_cpu.data.train.batches(5, epoch=1))
    trainer = make_trainer(f"data.workers={workers}", config=STREAMING)
    monkeypatch.setattr(streaming, "_copier", make_recording_copier)
    batches = list(trainer.data.train.batches(5, epoch=1))
    assert pinned == [True] * len(expected)
    assert all(is_on_gpu(batch.inputs) and is_on_gpu(batch.targets) for batch in batches)
    assert_equal_batches(batches, expected, atol=1e-6)


def test_training_on_streaming_images_does_not_depend_on_workers(make_trainer, folder_images):
    results = []
    for workers in (0, 2):
        options = [f"data.workers={workers}", "train.batch_size=5", "train.deterministic=true"]
        trainer = make_trainer(*options, config=STREAMING)
        trainer.fit()
        assert trainer.state.step == 3 * trainer.steps_per_epoch
        results.append(weights(trainer))
    assert torch.equal(*results)


def test_evaluation_equals_that_on_the_cpu(make_trainer, images):
    options = ["train.precision=fp64", "metrics=[accuracy, auroc, f1]"]
    on_gpu, on_cpu = (
        make_trainer(*options, config=IMAGES),
        make_trainer(*options, "train.device=cpu", config=IMAGES),
    )
    on_cpu.restore(on_gpu.snapshot())
    values = [trainer.evaluate(trainer.data.train, "val") for trainer in (on_gpu, on_cpu)]
    assert values[0] == pytest.approx(values[1], rel=1e-9)
