"""Decoding of image files to pixels."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from dltrain.core.data_spec import ImageInputs
from dltrain.core.errors import DataError
from dltrain.data import image_decoding
from dltrain.data.image_decoding import FORMATS, read_header

BITS_8 = ImageInputs((0.5,), (0.5,))
BITS_16 = ImageInputs((0.5,), (0.5,), deep=True, low=0, high=65535)


def decode_image(path, shape, inputs=BITS_8):
    return image_decoding.decode_image(path, shape, inputs)


def saved(path, pixels, **options):
    Image.fromarray(np.asarray(pixels)).save(path, **options)
    return path


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_an_image_of_the_right_size_is_unchanged(tmp_path):
    pixels = noise(6, 8, 3)
    path = saved(tmp_path / "x.png", pixels)
    assert torch.equal(decode_image(path, (3, 6, 8)), torch.from_numpy(pixels).permute(2, 0, 1))
    gray = noise(6, 8)
    path = saved(tmp_path / "g.png", gray)
    assert torch.equal(decode_image(path, (1, 6, 8))[0], torch.from_numpy(gray))


def test_the_center_is_cropped(tmp_path):
    pixels = noise(6, 11)
    path = saved(tmp_path / "x.png", pixels)
    assert torch.equal(decode_image(path, (1, 6, 6))[0], torch.from_numpy(pixels[:, 2:8]))


@pytest.mark.parametrize("size", [(7, 30), (30, 7), (100, 100), (3, 3), (15, 16)])
def test_any_size_is_resized_and_cropped(tmp_path, size):
    path = saved(tmp_path / "x.png", noise(*size, 3))
    assert decode_image(path, (3, 16, 16)).shape == (3, 16, 16)


def test_resizing_equals_torchvisions(tmp_path):
    transforms = pytest.importorskip("torchvision.transforms")
    path = saved(tmp_path / "x.png", noise(50, 70, 3))
    with Image.open(path) as image:
        expected = transforms.Compose([transforms.Resize(20), transforms.CenterCrop(20)])(image)
    assert torch.equal(
        decode_image(path, (3, 20, 20)), torch.from_numpy(np.array(expected)).permute(2, 0, 1)
    )


def test_gray_and_color_are_converted(tmp_path):
    gray = saved(tmp_path / "g.png", noise(4, 4))
    red, green, blue = decode_image(gray, (3, 4, 4))
    assert torch.equal(red, green)
    assert torch.equal(red, blue)
    color = saved(tmp_path / "c.png", np.full((4, 4, 3), (100, 200, 50), dtype=np.uint8))
    luma = round(0.299 * 100 + 0.587 * 200 + 0.114 * 50)
    assert decode_image(color, (1, 4, 4)).unique().tolist() == [luma]


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees clockwise for display
    pixels = noise(4, 6)
    path = saved(tmp_path / "x.png", pixels, exif=exif)
    upright = torch.from_numpy(np.rot90(pixels, -1).copy())
    assert torch.equal(decode_image(path, (1, 6, 4))[0], upright)


VALUES = np.array([[0, 255, 256], [4660, 32768, 65535]], dtype=np.uint16)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_keep_all_their_values(tmp_path, suffix, channels):
    path = saved(tmp_path / f"x.{suffix}", VALUES)
    pixels = decode_image(path, (channels, 2, 3), BITS_16)
    assert pixels.dtype == torch.int32
    assert all(channel.tolist() == VALUES.tolist() for channel in pixels)
    header = read_header(path)
    assert (header.is_deep, header.is_gray, header.is_transparent) == (True, True, False)


def test_16_bits_are_averaged_without_clipping(tmp_path):
    path = saved(tmp_path / "x.png", np.kron(VALUES, np.ones((4, 4))).astype(np.uint16))
    small = decode_image(path, (1, 1, 1), BITS_16)
    with Image.open(path) as image:
        square = image.convert("F").resize((2, 1), Image.Resampling.BILINEAR)
    assert small.item() == round(np.asarray(square)[0, 0].item())


@pytest.mark.parametrize(("own", "inputs"), [(np.uint16, BITS_8), (np.uint8, BITS_16)])
def test_images_of_another_depth_are_refused(tmp_path, own, inputs):
    path = saved(tmp_path / "x.png", np.ones((4, 4), dtype=own))
    bits = np.iinfo(own).bits
    with pytest.raises(
        DataError, match=rf"x\.png: expected {24 - bits} bits per pixel.* got {bits}"
    ):
        decode_image(path, (1, 4, 4), inputs)


def png(colour_type, *shape):
    """Return a 16-bit PNG file; Pillow cannot write color ones."""
    rows = np.arange(np.prod(shape)).reshape(shape).astype(">u2") * 300
    head = struct.pack(">IIBBBBB", shape[1], shape[0], 16, colour_type, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = ((b"IHDR", head), (b"IDAT", content), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks
    )


COLOR_16_BIT = {
    "color": png(2, 4, 4, 3),
    "gray and alpha": png(4, 4, 4, 2),
    "color and alpha": png(6, 4, 4, 4),
    "ppm": b"P6 2 2 65535\n" + np.arange(12, dtype=">u2").tobytes(),
}


@pytest.mark.parametrize("kind", COLOR_16_BIT)
@pytest.mark.parametrize("inputs", [BITS_8, BITS_16])
def test_16_bit_images_that_pillow_reads_as_8_bit_are_refused(tmp_path, kind, inputs):
    path = tmp_path / "x.png"
    path.write_bytes(COLOR_16_BIT[kind])
    for read in (lambda: decode_image(path, (3, 2, 2), inputs), lambda: read_header(path)):
        with pytest.raises(
            DataError, match=r"x\.png: 16 bits per channel are supported in grayscale"
        ):
            read()


def test_a_bitmap_with_16_bits_per_pixel_has_8_bit_colors(tmp_path):
    content = bytearray(saved(tmp_path / "x.bmp", noise(4, 4, 3)).read_bytes()[:54])
    content[28:30] = (16).to_bytes(2, "little")
    (tmp_path / "x.bmp").write_bytes(content + b"\xff\x7f" * 16)
    assert decode_image(tmp_path / "x.bmp", (3, 4, 4)).unique().tolist() == [255]


def icon(level):
    """Return a gray disc on a transparent background of the same hidden color."""
    y, x = np.mgrid[:16, :16] - 7.5
    alpha = np.where(x**2 + y**2 < 30, 255, 0)
    gray = np.full((16, 16), level)
    return Image.fromarray(np.stack([gray, gray, gray, alpha], -1).astype(np.uint8))


@pytest.mark.parametrize("background", [0, 128, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pixels_show_the_background(tmp_path, background, mode, channels):
    path, inputs = tmp_path / "x.png", ImageInputs((0.0,), (1.0,), background=background)
    image = icon(40)
    if mode in ("RGBA", "LA"):
        image.convert(mode).save(path)
    else:  # a transparent color or palette entry
        alpha = np.asarray(image)[..., 3]
        pixels = Image.fromarray(np.where(alpha, 40, 41).astype(np.uint8)).convert(mode)
        pixels.save(path, transparency=pixels.getpixel((0, 0)))
    assert read_header(path).is_transparent
    pixels = decode_image(path, (channels, 16, 16), inputs)
    assert pixels.shape == (channels, 16, 16)
    assert pixels.unique().tolist() == sorted({40, background})
    assert pixels[:, 0, 0].unique().tolist() == [background]


def test_partly_transparent_pixels_are_blended_with_the_background(tmp_path):
    saved(tmp_path / "x.png", np.full((4, 4, 4), (200, 100, 0, 51), dtype=np.uint8))
    red, green, blue = decode_image(tmp_path / "x.png", (3, 4, 4))[:, 0, 0].tolist()
    assert (red, green, blue) == (244, 224, 204)


def test_opaque_alpha_channels_are_ignored(tmp_path):
    pixels = noise(6, 6, 4)
    pixels[..., 3] = 255
    saved(tmp_path / "x.png", pixels)
    expected = torch.from_numpy(pixels[..., :3]).permute(2, 0, 1)
    assert torch.equal(decode_image(tmp_path / "x.png", (3, 6, 6)), expected)


def test_float_images_are_refused(tmp_path):
    path = saved(tmp_path / "x.tif", np.ones((4, 4), dtype=np.float32))
    with pytest.raises(DataError, match=r"x\.tif: pixels of type 'F'"):
        decode_image(path, (1, 4, 4))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_damaged_images_are_named(tmp_path, suffix):
    path = saved(tmp_path / f"x.{suffix}", noise(40, 40, 3))
    content = path.read_bytes()
    for length in (0, 10, 30, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=rf"x\.{suffix}: not an image that can be read"):
            decode_image(path, (3, 8, 8))


def test_missing_images_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no\.png"):
        decode_image(tmp_path / "no.png", (3, 8, 8))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tiff"])
@pytest.mark.parametrize("read", [lambda path: decode_image(path, (3, 8, 8)), read_header])
def test_postscript_files_start_no_program(tmp_path, monkeypatch, name, read):
    started = tmp_path / "started"
    (tmp_path / "bin").mkdir()
    for program in ("gs", "gswin64c", "gswin32c"):
        (tmp_path / "bin" / program).write_text(f"#!/bin/sh\ntouch {started}\n")
        (tmp_path / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    (tmp_path / name).write_bytes(EPS)
    with pytest.raises(DataError, match=f"{name}: not an image that can be read; expected BMP"):
        read(tmp_path / name)
    assert not started.exists()


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "AVIF", "JPEG2000", "DDS"])
def test_other_formats_are_refused_by_content(tmp_path, kind):
    Image.fromarray(noise(16, 16, 3)).save(tmp_path / "x.png", format=kind)
    with pytest.raises(DataError, match=", ".join(FORMATS)):
        decode_image(tmp_path / "x.png", (3, 8, 8))
    with pytest.raises(DataError, match=", ".join(FORMATS)):
        read_header(tmp_path / "x.png")


def test_formats_are_recognized_by_content_not_by_name(tmp_path):
    for kind in FORMATS:
        Image.fromarray(noise(16, 16, 3)).save(tmp_path / "x.png", format=kind)
        assert decode_image(tmp_path / "x.png", (3, 8, 8)).shape == (3, 8, 8)


def test_images_with_too_many_pixels_are_refused(tmp_path):
    content = bytearray(saved(tmp_path / "x.bmp", noise(4, 4, 3)).read_bytes())
    content[18:26] = (30_000).to_bytes(4, "little") + (3_000).to_bytes(4, "little")
    (tmp_path / "x.bmp").write_bytes(content)
    with pytest.raises(DataError, match=r"expected at most 89,478,485 pixels, got 30000 x 3000"):
        decode_image(tmp_path / "x.bmp", (3, 8, 8))
