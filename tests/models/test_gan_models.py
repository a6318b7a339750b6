"""Generators make samples on the data's scale; discriminators read them."""

import pytest
import torch

from dltrain.core.data_spec import Column, DataSpec, ImageInputs, TableInputs, TextInputs
from dltrain.core.errors import UsageError
from dltrain.models.gan import dcgan, gan_mlp

MEAN, STD = (0.2, 0.4, 0.5), (0.3, 0.2, 0.1)


def image_spec(*shape):
    channels = shape[0]
    return DataSpec(shape, 1, ImageInputs(MEAN[:channels], STD[:channels]), ("a", "b"))


TABLE = DataSpec((5,), 1, TableInputs(tuple(Column(f"x{i}") for i in range(5))))
TEXT = DataSpec((0,), 1, TextInputs("word", ("<pad>", "<unk>")))


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize(
    ("channels", "shape"),
    [((6, 4), (1, 28, 28)), ((16, 8, 4), (3, 32, 48)), ((5,), (1, 6, 6))],
)
def test_dcgan_makes_pictures_of_any_size_that_halves(norm, channels, shape):
    model = dcgan(image_spec(*shape), latent=7, channels=channels, norm=norm)
    fake = model.generator(torch.randn(3, 7))
    assert fake.shape == (3, *shape)
    assert model.discriminator(fake).shape == (3, 1)
    assert torch.equal(model(fake), model.discriminator(fake))


@pytest.mark.parametrize("spec", [image_spec(1, 7, 5), TABLE])
def test_gan_mlp_makes_any_numbers(spec):
    model = gan_mlp(spec, latent=7, hidden=(9, 11), dropout=0.1)
    fake = model.generator(torch.randn(3, 7))
    assert fake.shape == (3, *spec.input_shape)
    assert model.discriminator(fake).shape == (3, 1)


@pytest.mark.parametrize("builder", [gan_mlp, dcgan])
def test_pixels_are_between_black_and_white(builder):
    """However large the noise: the data's mean and deviation are undone by its own scale."""
    spec = image_spec(3, 8, 8)
    model = builder(spec).eval()
    fake = model.generator(100 * torch.randn(20, model.latent)).detach()
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    pixels = fake * std + mean
    assert -1e-6 <= pixels.min() < 0.45
    assert 0.55 < pixels.max() <= 1 + 1e-6


def test_numbers_of_a_table_have_no_bounds():
    model = gan_mlp(TABLE)
    fake = model.generator(1000 * torch.randn(20, model.latent))
    assert fake.min() < -1
    assert fake.max() > 1


@pytest.mark.parametrize("norm", ["group", "none"])
def test_without_batch_normalisation_samples_are_apart(norm):
    model = dcgan(image_spec(1, 8, 8), norm=norm, channels=(8, 4))
    noise = torch.randn(6, model.latent)
    together = model.generator(noise)
    assert torch.allclose(together[:2], model.generator(noise[:2]), atol=1e-6)


@pytest.mark.parametrize(
    ("builder", "spec", "options", "message"),
    [
        (dcgan, TABLE, {}, "expected images .* 'gan_mlp'"),
        (dcgan, image_spec(1, 28, 28), {"channels": (8, 4, 2)}, "28x28 can't be halved 3 times"),
        (gan_mlp, TEXT, {}, "expected images or tables"),
    ],
)
def test_what_does_not_fit_is_refused(builder, spec, options, message):
    with pytest.raises(UsageError, match=message):
        builder(spec, **options)
