"""Picture files to pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from dltrain.data.decode import decode_image
from dltrain.errors import DataError


def saved(path, pixels, **options):
    Image.fromarray(np.asarray(pixels)).save(path, **options)
    return path


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_a_picture_of_the_right_size_is_left_alone(tmp_path):
    pixels = noise(6, 8, 3)
    path = saved(tmp_path / "x.png", pixels)
    assert torch.equal(decode_image(path, (3, 6, 8)), torch.from_numpy(pixels).permute(2, 0, 1))
    grey = noise(6, 8)
    path = saved(tmp_path / "g.png", grey)
    assert torch.equal(decode_image(path, (1, 6, 8))[0], torch.from_numpy(grey))


def test_the_centre_is_cut_out(tmp_path):
    pixels = noise(6, 11)
    path = saved(tmp_path / "x.png", pixels)
    assert torch.equal(decode_image(path, (1, 6, 6))[0], torch.from_numpy(pixels[:, 2:8]))


@pytest.mark.parametrize("size", [(7, 30), (30, 7), (100, 100), (3, 3), (15, 16)])
def test_any_size_fits(tmp_path, size):
    path = saved(tmp_path / "x.png", noise(*size, 3))
    assert decode_image(path, (3, 16, 16)).shape == (3, 16, 16)


def test_resized_as_torchvision_does(tmp_path):
    transforms = pytest.importorskip("torchvision.transforms")
    path = saved(tmp_path / "x.png", noise(50, 70, 3))
    with Image.open(path) as image:
        expected = transforms.Compose([transforms.Resize(20), transforms.CenterCrop(20)])(image)
    assert torch.equal(
        decode_image(path, (3, 20, 20)), torch.from_numpy(np.array(expected)).permute(2, 0, 1)
    )


def test_grey_and_colour_are_converted(tmp_path):
    grey = saved(tmp_path / "g.png", noise(4, 4))
    red, green, blue = decode_image(grey, (3, 4, 4))
    assert torch.equal(red, green)
    assert torch.equal(red, blue)
    colour = saved(tmp_path / "c.png", np.full((4, 4, 3), (100, 200, 50), dtype=np.uint8))
    luma = round(0.299 * 100 + 0.587 * 200 + 0.114 * 50)
    assert decode_image(colour, (1, 4, 4)).unique().tolist() == [luma]


def test_a_turned_photograph_is_read_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    pixels = noise(4, 6)
    path = saved(tmp_path / "x.png", pixels, exif=exif)
    upright = torch.from_numpy(np.rot90(pixels, -1).copy())
    assert torch.equal(decode_image(path, (1, 6, 4))[0], upright)


def test_16_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 255, 256], [4660, 32768, 65535]], dtype=np.uint16)
    path = saved(tmp_path / "x.png", values)
    assert decode_image(path, (1, 2, 3))[0].tolist() == [[0, 0, 1], [18, 128, 255]]


def test_transparent_palettes_are_read_without_a_warning(tmp_path):
    image = Image.fromarray(noise(4, 4)).convert("P")
    image.save(tmp_path / "x.png", transparency=b"\x00\x80\xff")
    assert decode_image(tmp_path / "x.png", (3, 4, 4)).shape == (3, 4, 4)


def test_floats_are_refused(tmp_path):
    path = saved(tmp_path / "x.tif", np.ones((4, 4), dtype=np.float32))
    with pytest.raises(DataError, match=r"x\.tif: pixels of type 'F'"):
        decode_image(path, (1, 4, 4))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_damaged_pictures_are_named(tmp_path, suffix):
    path = saved(tmp_path / f"x.{suffix}", noise(40, 40, 3))
    content = path.read_bytes()
    for length in (0, 10, 30, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=rf"x\.{suffix}: not a picture that can be read"):
            decode_image(path, (3, 8, 8))


def test_missing_pictures_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no\.png"):
        decode_image(tmp_path / "no.png", (3, 8, 8))
