"""Picture files to pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from dltrain.data.decode import FORMATS, decode_image, read_header
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
        with pytest.raises(DataError, match=rf"x\.{suffix}: not an image that can be read"):
            decode_image(path, (3, 8, 8))


def test_missing_pictures_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no\.png"):
        decode_image(tmp_path / "no.png", (3, 8, 8))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tiff"])
@pytest.mark.parametrize("read", [lambda path: decode_image(path, (3, 8, 8)), read_header])
def test_postscript_starts_no_other_program(tmp_path, monkeypatch, name, read):
    started = tmp_path / "started"
    (tmp_path / "bin").mkdir()
    for program in ("gs", "gswin64c", "gswin32c"):
        (tmp_path / "bin" / program).write_text(f"#!/bin/sh\ntouch {started}\n")
        (tmp_path / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    (tmp_path / name).write_bytes(EPS)
    with pytest.raises(DataError, match=f"{name}: not an image that can be read: none of BMP"):
        read(tmp_path / name)
    assert not started.exists()


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "AVIF", "JPEG2000", "DDS"])
def test_formats_that_are_not_listed_are_refused_by_content(tmp_path, kind):
    Image.fromarray(noise(16, 16, 3)).save(tmp_path / "x.png", format=kind)
    with pytest.raises(DataError, match=", ".join(FORMATS)):
        decode_image(tmp_path / "x.png", (3, 8, 8))
    with pytest.raises(DataError, match=", ".join(FORMATS)):
        read_header(tmp_path / "x.png")


def test_listed_formats_are_known_by_content_not_by_name(tmp_path):
    for kind in FORMATS:
        Image.fromarray(noise(16, 16, 3)).save(tmp_path / "x.png", format=kind)
        assert decode_image(tmp_path / "x.png", (3, 8, 8)).shape == (3, 8, 8)


def test_more_pixels_than_a_photograph_has_are_refused(tmp_path):
    content = bytearray(saved(tmp_path / "x.bmp", noise(4, 4, 3)).read_bytes())
    content[18:26] = (30_000).to_bytes(4, "little") + (3_000).to_bytes(4, "little")
    (tmp_path / "x.bmp").write_bytes(content)
    with pytest.raises(DataError, match=r"30000 x 3000 pixels; at most 89,478,485 are taken"):
        decode_image(tmp_path / "x.bmp", (3, 8, 8))
