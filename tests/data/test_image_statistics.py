"""16-bit and transparent images are read alike in training and afterwards."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from samples import gather

import dltrain
from dltrain.core.data_spec import spec_from_json, spec_to_json
from dltrain.core.errors import DataError
from dltrain.data.augment import Augment
from dltrain.data.input_readers import read_inputs
from dltrain.data.python_inputs import read_objects
from dltrain.exporting.preprocessing import Pixels
from dltrain.serving.limits import DEFAULTS
from dltrain.serving.request_parsing import RequestParser


def deep_folder(folder, kind="png", values=range(30_000, 30_024)):
    """Write 16-bit images in two classes, one of the lower and one of the higher values."""
    for number, value in enumerate(values):
        path = folder / ("low" if number < len(values) // 2 else "high") / f"{number}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8), value, dtype=np.uint16)
        pixels[0, 0] += 7
        Image.fromarray(pixels).save(path)
    return folder


def icon_folder(folder, levels):
    """Write a disc and a square of each gray level on a transparent background."""
    y, x = np.mgrid[:16, :16] - 7.5
    shapes = {"disc": x**2 + y**2 < 20, "square": (abs(x) < 6) & (abs(y) < 6)}
    for name, inside in shapes.items():
        (folder / name).mkdir(parents=True)
        for number, level in enumerate(levels):
            gray = np.full((16, 16), level)
            pixels = np.stack([gray, gray, gray, inside * 255], -1).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return folder


def make(build, folder, **options):
    return build("image_folder", **({"root": str(folder), "size": 8, "workers": 0} | options))


@pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_values_are_scaled_by_the_training_images(build, tmp_path, kind, channels):
    folder = deep_folder(tmp_path / "x", kind)
    data = make(build, folder, channels=channels, test=4, validation=0, cache="memory")
    inputs = data.spec.inputs
    values = [np.asarray(Image.open(path)).astype(int) for path in data.train.names]
    assert (inputs.deep, inputs.low, inputs.high) == (True, np.min(values), np.max(values))
    for _ in range(2):  # from the files, then from the cache
        got, targets, _ = gather(data.train, 4, epoch=0)
        assert got.shape == (20, channels, 8, 8)
        assert got.mean().item() == pytest.approx(0, abs=1e-4)
        assert got.std(correction=0).item() == pytest.approx(1, abs=1e-4)
        low, high = got[targets == 1, 0, 4, 4], got[targets == 0, 0, 4, 4]
        assert low.unique().numel() + high.unique().numel() == 20  # no value is lost
        assert low.max() < high.min()


def test_given_statistics_apply_to_the_scaled_range(build, tmp_path):
    folder = deep_folder(tmp_path / "x", values=range(0, 60_000, 2500))
    data = make(build, folder, channels=1, test=0, validation=0, mean=(0.0,), std=(1.0,))
    inputs = gather(data.train)[0]
    assert (inputs.min().item(), inputs.max().item()) == (0, 1)


def test_augmentation_pads_with_the_minimum_value(build, tmp_path):
    folder = deep_folder(tmp_path / "x")
    options = {"channels": 1, "test": 0, "validation": 0, "mean": (0.0,), "std": (1.0,)}
    augment = Augment(crop=3, rotate=40, shift=2)
    inputs = gather(make(build, folder, augment=augment, **options).train, epoch=0)[0]
    assert inputs.min().item() == 0
    assert inputs.max().item() <= 1


@pytest.mark.parametrize("odd", ["0.jpg", "0.png"])
def test_8_and_16_bits_together_are_refused_by_name(build, tmp_path, odd):
    folder = deep_folder(tmp_path / "x")
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(folder / "low" / odd)
    with pytest.raises(DataError, match=r"has 16 bits per pixel and .*low/0\.(png|jpg) has 8"):
        make(build, folder, test=0, validation=0)


def test_constant_images_become_zero(build, tmp_path):
    folder = tmp_path / "x"
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 4000, dtype=np.uint16)).save(folder / name)
    inputs = gather(make(build, folder, channels=1, test=0, validation=0).train)[0]
    assert inputs.unique().tolist() == [0]


@pytest.mark.parametrize(
    ("levels", "background"),
    [
        ([0] * 6, 255),
        ([255] * 6, 0),
        ([0, 255] * 3, 128),
        ([117] * 6, 255),
        ([0, 128, 255] * 2, 64),
        ([0, 0, 20, 90, 60, 10], 255),
    ],
)
def test_the_background_is_chosen_for_contrast(build, tmp_path, levels, background):
    folder = icon_folder(tmp_path / "x", levels)
    data = make(build, folder, test=0, validation=0, mean=(0.0,) * 3, std=(1.0,) * 3, size=16)
    assert data.spec.inputs.background == background
    images, targets, _ = gather(data.train)
    corners = (images[..., 0, 0] * 255).round().unique()
    assert corners.tolist() == [background]
    assert all(image.std() > 0.01 for image in images)
    assert not torch.equal(images[targets == 0], images[targets == 1])


@pytest.mark.parametrize(("name", "level"), [("white", 255), ("gray", 128), ("black", 0)])
def test_the_background_is_an_option(build, tmp_path, name, level):
    folder = icon_folder(tmp_path / "x", [60] * 6)
    assert make(build, folder, background=name).spec.inputs.background == level


def deep(build, folder):
    return make(build, deep_folder(folder), channels=1)


def icons(build, folder):
    return make(build, icon_folder(folder, [0] * 12), size=16)


@pytest.mark.parametrize("kind", [deep, icons])
def test_predict_serve_python_and_export_preprocess_as_in_training(build, tmp_path, kind):
    data = kind(build, tmp_path / "x")
    spec = spec_from_json(json.loads(json.dumps(spec_to_json(data.spec))))
    assert spec == data.spec
    trained = gather(data.train)[0]
    paths = data.train.names
    predicted, _ = read_inputs(spec, paths)
    assert torch.equal(predicted, trained)
    opened, _ = read_objects(spec, [Image.open(path) for path in paths])
    arrays, _ = read_objects(spec, [np.asarray(Image.open(path)) for path in paths])
    assert torch.equal(opened, trained)
    assert torch.equal(arrays, trained)
    parser = RequestParser(spec, DEFAULTS)
    sent, _ = parser.parse_files([(str(path), path.read_bytes()) for path in paths])
    assert torch.equal(parser.collate(sent), trained)
    pixels = Pixels(spec.inputs, spec.input_shape, torch.float32)
    assert pixels.port.dtype == ("int32" if spec.inputs.deep else "uint8")
    raw = pixels.raw(trained)
    assert torch.equal(raw, torch.stack(sent))
    assert torch.equal(pixels(raw), trained)


def test_16_bit_pixel_rows_are_served(build, tmp_path):
    data = deep(build, tmp_path / "x")
    rows = np.asarray(Image.open(data.train.names[0])).astype(int).tolist()
    parser = RequestParser(data.spec, DEFAULTS)
    sent, _ = parser.parse_json(json.dumps({"images": [rows]}).encode())
    assert torch.equal(parser.collate(sent), gather(data.train)[0][:1])


def test_an_image_of_another_bit_depth_is_refused_everywhere(build, tmp_path):
    spec = deep(build, tmp_path / "x").spec
    content = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(content, "PNG")
    (tmp_path / "8.png").write_bytes(content.getvalue())
    with pytest.raises(DataError, match=r"8\.png: expected 16 bits per pixel"):
        read_inputs(spec, [tmp_path / "8.png"])
    with pytest.raises(DataError, match="expected an array of uint16 or int32, grayscale"):
        read_objects(spec, [np.zeros((8, 8), dtype=np.uint8)])


def test_values_that_differ_by_less_than_256_are_distinguished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    deep_folder(tmp_path / "x")
    (tmp_path / "c.yaml").write_text(
        "model: linear\n"
        "data: {name: image_folder, root: x, size: 8, channels: 1, workers: 0}\n"
        "loss: cross_entropy\noptimizer: {name: adam, lr: 0.05}\nmetrics: [accuracy]\n"
        "train: {epochs: 20, batch_size: 8, device: cpu}\nrecording: {tensorboard: false}\n"
    )
    dltrain.train(dltrain.load("c.yaml"), run_dir=tmp_path / "run", quiet=True)
    found = dltrain.predict(tmp_path / "run", sorted((tmp_path / "x").rglob("*.png")))
    right = [prediction.label in prediction.input for prediction in found]
    assert sum(right) >= 22
