"""Augmentation: deterministic functions of sample, epoch and seed."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError

from dltrain.core.data_spec import ImageInputs
from dltrain.data.augment import Augment
from dltrain.data.images import ImageTransform, pixel_statistics
from dltrain.data.in_memory import InMemory

ALL_OPTIONS = Augment(crop=2, flip=True, shift=1.5, rotate=20, cutout=3)
CPU = torch.device("cpu")


def images(num=40, channels=3, height=10, width=8):
    shape = (num, channels, height, width)
    return torch.randint(
        1, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def transform_images(augment, pixels, epoch=0, seed=0):
    draws = augment.random_values(seed, epoch, torch.arange(len(pixels)))
    return augment.transform(pixels, draws, torch.float32), draws


@pytest.mark.parametrize("batch_size", [1, 7, 16])
@pytest.mark.parametrize("offset", [0, 2])
def test_augmentation_of_a_sample_does_not_depend_on_its_batch(batch_size, offset):
    pixels = images()
    transform = ImageTransform(
        pixel_statistics(pixels), dtype=torch.float32, device=CPU, seed=3, augment=ALL_OPTIONS
    )
    split = InMemory(pixels, torch.zeros(40, dtype=torch.int64), seed=3, transform=transform)
    whole = next(iter(split.batches(40, epoch=4)))
    expected = dict(zip(whole.index.tolist(), whole.inputs, strict=True))
    for batch in split.batches(batch_size, epoch=4, offset=offset):
        for number, image in zip(batch.index.tolist(), batch.inputs, strict=True):
            assert torch.equal(image, expected[number])


def test_augmentation_of_a_sample_depends_on_epoch_and_seed():
    pixels, index = images(), torch.arange(40)

    def inputs(seed, epoch):
        transform = ImageTransform(
            pixel_statistics(pixels),
            dtype=torch.float32,
            device=CPU,
            seed=seed,
            augment=ALL_OPTIONS,
        )
        return transform(pixels, index, epoch)

    first = inputs(0, 0)
    assert torch.equal(inputs(0, 0), first)
    for other in (inputs(0, 1), inputs(1, 0)):
        assert (other != first).flatten(1).any(1).all()  # every single sample


def test_evaluation_is_not_augmented():
    pixels = images()
    inputs = ImageInputs((0.2, 0.4, 0.6), (0.1, 0.2, 0.3))
    transform = ImageTransform(inputs, dtype=torch.float64, device=CPU, augment=ALL_OPTIONS)
    mean, std = (
        torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (inputs.mean, inputs.std)
    )
    expected = (pixels.double() / 255 - mean) / std
    assert torch.allclose(transform(pixels, torch.arange(40), None), expected, atol=1e-12)


def test_crop_is_a_window_of_the_padded_image():
    pixels = images()
    cropped, _ = transform_images(Augment(crop=2), pixels)
    offsets = set()
    for before, after in zip(pixels, cropped, strict=True):
        padded = F.pad(before, (2, 2, 2, 2)).float()
        found = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if torch.equal(padded[:, y : y + 10, x : x + 8], after)
        ]
        assert len(found) == 1
        offsets |= set(found)
    assert len(offsets) > 10


def test_flip_mirrors_about_half_of_the_images():
    pixels = images(400)
    flipped, _ = transform_images(Augment(flip=True), pixels)
    mirrored = (flipped == pixels.flip(3)).flatten(1).all(1)
    unchanged = (flipped == pixels).flatten(1).all(1)
    assert bool((mirrored ^ unchanged).all())
    assert 150 < mirrored.sum() < 250


def test_rotation_by_a_right_angle_is_exact():
    # The angle is (2 u - 1) * 180 degrees: 90 for this draw.
    pixels = images(1, height=8, width=8)
    draws = torch.tensor([[0.5, 0.5, 0.9, 0.5, 0.5, 0.75, 0.5, 0.5]])
    turned = Augment(rotate=180).transform(pixels, draws, torch.float64)
    assert torch.allclose(turned, torch.rot90(pixels, 1, (2, 3)).double(), atol=1e-6)


def test_rotation_keeps_shapes_in_rectangular_images():
    # A centered disc stays a disc; with swapped sides it would become an ellipse.
    y, x = torch.meshgrid(torch.arange(40) - 19.5, torch.arange(80) - 39.5, indexing="ij")
    disc = ((y**2 + x**2) < 15**2).to(torch.uint8)[None, None] * 255
    draws = torch.tensor([[0.5, 0.5, 0.9, 0.5, 0.5, 0.625, 0.5, 0.5]])  # 45 degrees
    turned = Augment(rotate=180).transform(disc, draws, torch.float32)
    assert ((turned - disc).abs() > 128).float().mean() < 0.02


def test_shift_by_whole_pixels_is_exact():
    pixels = images(1)
    draws = torch.tensor([[0.5, 0.5, 0.9, 1.0, 0.5, 0.5, 0.5, 0.5]])  # maximum shift along x
    shifted = Augment(shift=2).transform(pixels, draws, torch.float64)
    assert torch.allclose(shifted, F.pad(pixels, (0, 2))[..., 2:].double(), atol=1e-6)


def test_shift_reaches_its_maximum_in_both_directions():
    _, draws = transform_images(Augment(shift=3), images(300))
    middle = torch.zeros(300, 1, 9, 9, dtype=torch.uint8)
    middle[:, :, 4, 4] = 255
    mass = Augment(shift=3).transform(middle, draws, torch.float64)[:, 0]
    rows = (mass.sum(2) * torch.arange(9)).sum(1) / mass.sum((1, 2)) - 4
    assert -3 <= rows.min() < -2.8
    assert 2.8 < rows.max() <= 3


def test_cutout_blanks_a_square_with_the_mean():
    pixels = images(2000, height=12, width=12)
    augment = Augment(cutout=4)
    transform = ImageTransform(
        ImageInputs((0.0,) * 3, (1.0,) * 3), dtype=torch.float32, device=CPU, augment=augment
    )
    blank = transform(pixels, torch.arange(2000), 0) == 0
    assert bool((blank[:, :1] == blank).all())  # in all channels
    areas = blank[:, 0].flatten(1).sum(1)
    assert areas.max() == 16
    assert areas.min() == 4  # in a corner only a quarter is inside the image
    assert blank.any(0).all()  # every pixel is blank in some image


def test_options_are_validated():
    adapter = TypeAdapter(Augment)
    assert adapter.validate_json('{"crop": 4, "flip": true}', strict=True) == Augment(
        crop=4, flip=True
    )
    for wrong in ('{"crop": -1}', '{"crop": 1.5}', '{"rotate": 200}'):
        with pytest.raises(ValidationError):
            adapter.validate_json(wrong, strict=True)
