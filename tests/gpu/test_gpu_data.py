"""Batches on a GPU are those of a CPU."""

import pytest
import torch
from gpu_config import CONFIG, IMAGES
from gpu_steps import is_on_gpu, weights

from dltrain.data import streaming

pytestmark = pytest.mark.gpu

STREAMED = CONFIG | {
    "model": {"name": "cnn", "channels": [4]},
    "data": {
        "name": "image_folder",
        "root": "my_images",
        "size": 32,
        "augment": {"flip": True, "crop": 2},
    },
}


@pytest.fixture
def image_folder(tmp_path):
    from small_data import write_color_images

    write_color_images(tmp_path / "my_images", 20)


def assert_same_batches(ours, theirs, atol):
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.index.cpu(), other.index.cpu())
        assert torch.equal(one.targets.cpu(), other.targets.cpu())
        assert torch.allclose(one.inputs.cpu(), other.inputs.cpu(), rtol=0, atol=atol)


@pytest.mark.parametrize("offset", [0, 3])
def test_resident_pictures_are_those_of_the_cpu(make, images, offset):
    ours, theirs = make(config=IMAGES), make("train.device=cpu", config=IMAGES)
    assert is_on_gpu(ours.data.train.samples)
    assert ours.data.train.samples.dtype == torch.uint8
    batches = [list(t.data.train.batches(64, epoch=2, offset=offset)) for t in (ours, theirs)]
    assert len(batches[0]) == 5 - offset
    # Rotated images are interpolated: sines, and with them pixels, differ in the last digits.
    assert_same_batches(*batches, atol=1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_images_are_those_of_the_cpu(make, only_cuda, image_folder, workers, monkeypatch):
    pinned, copier = [], streaming._copier

    def watched(device):
        copy = copier(device)

        def watch(samples):
            pinned.append(samples.is_pinned())
            return copy(samples)

        return watch

    on_cpu = make("train.device=cpu", "data.workers=0", config=STREAMED)
    theirs = list(on_cpu.data.train.batches(5, epoch=1))
    trainer = make(f"data.workers={workers}", config=STREAMED)
    monkeypatch.setattr(streaming, "_copier", watched)
    ours = list(trainer.data.train.batches(5, epoch=1))
    assert pinned == [True] * len(theirs)
    assert all(is_on_gpu(batch.inputs) and is_on_gpu(batch.targets) for batch in ours)
    assert_same_batches(ours, theirs, atol=1e-6)


def test_training_on_streamed_images_does_not_depend_on_workers(make, image_folder):
    results = []
    for workers in (0, 2):
        options = [f"data.workers={workers}", "train.batch_size=5", "train.deterministic=true"]
        trainer = make(*options, config=STREAMED)
        trainer.fit()
        assert trainer.state.step == 3 * trainer.steps_per_epoch
        results.append(weights(trainer))
    assert torch.equal(*results)


def test_evaluation_is_that_of_the_cpu(make, images):
    options = ["train.precision=fp64", "metrics=[accuracy, auroc, f1]"]
    ours, theirs = make(*options, config=IMAGES), make(*options, "train.device=cpu", config=IMAGES)
    theirs.restore(ours.snapshot())
    values = [trainer.evaluate(trainer.data.train, "val") for trainer in (ours, theirs)]
    assert values[0] == pytest.approx(values[1], rel=1e-9)
