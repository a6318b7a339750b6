"""New files are read as the training samples were."""

import numpy as np
import pytest
import torch
from PIL import Image
from samples import gather

from dltrain.core.errors import DataError
from dltrain.data.input_readers import read_images, read_inputs

HEADER = "width,colour,kind\n"
ROWS = "".join(f"{n},{('red', 'blue')[n % 2]},{n % 2}\n" for n in range(30))


def rows_of(data, path):
    return read_inputs(data.spec, [path])[0]


@pytest.fixture
def table(build, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(HEADER + ROWS)
    return build("csv", path=str(path), target="kind", validation=0, test=0), path


def test_rows_are_read_as_in_training(table):
    data, path = table
    inputs, names = read_inputs(data.spec, [path, path])
    assert torch.equal(inputs, torch.cat([gather(data.train)[0]] * 2))
    assert names[:2] == [f"{path}:2", f"{path}:3"]
    assert len(names) == 60
    assert torch.equal(rows_of(data, path), inputs[:30])


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_columns_are_found_by_name(table, tmp_path, delimiter):
    data, path = table
    other = tmp_path / "new.csv"
    lines = ["colour,more,width", "red,x,0", "blue,y,1", "pink,z,2"]
    other.write_text("\n".join(lines).replace(",", delimiter))
    inputs = rows_of(data, other)
    expected = rows_of(data, path)[:3]
    expected[2, 1:] = 0  # a color that is not in the training data
    assert torch.equal(inputs, expected)


def test_unreadable_rows_are_named(table, tmp_path):
    data, _ = table
    other = tmp_path / "new.csv"
    other.write_text("width\n1\n")
    with pytest.raises(DataError, match=r"new\.csv: has no column 'colour'; it has width"):
        read_inputs(data.spec, [other])
    other.write_text("width,colour\n1,red\nwide,red\n")
    with pytest.raises(DataError, match=r"new\.csv:3: expected a number in 'width', got 'wide'"):
        read_inputs(data.spec, [other])
    with pytest.raises(DataError, match=r"no\.csv: can't be read"):
        read_inputs(data.spec, [tmp_path / "no.csv"])
    with pytest.raises(DataError, match="trained on rows of a table"):
        read_images(data.spec, [other])


@pytest.mark.parametrize("cell", ["", "nan", "?", "inf", "what"])
def test_targets_and_unused_columns_are_not_validated(table, tmp_path, cell):
    data, path = table
    other = tmp_path / "new.csv"
    other.write_text(f"kind,colour,more,,more,width\n{cell},red,{cell},{cell},{cell},0\n")
    assert torch.equal(rows_of(data, other), rows_of(data, path)[:1])
    other.write_text("kind,colour,width\n1,red,0\n1,red,0,1\n")
    with pytest.raises(DataError, match=r"new\.csv:3: 4 cells, the header has 3"):
        rows_of(data, other)
    other.write_text(f"kind,colour,width\n1,red,0\n1,red,{cell}\n")
    with pytest.raises(DataError, match=r"new\.csv:3: .*'width'"):
        rows_of(data, other)


def test_rows_are_read_with_the_quoting_of_the_training_file(build, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("width,kind\n" + "".join(f'"{n % 3},{n % 2}\n' for n in range(30)))
    data = build("csv", path=str(path), target="kind", quote=None, validation=0, test=0)
    assert torch.equal(rows_of(data, path), gather(data.train)[0])


def test_images_are_read_as_in_training(build, idx_folder, tmp_path):
    data = build("idx", root=str(idx_folder), validation=0)
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(data.train.samples[number, 0].numpy()).save(paths[-1])
    inputs, names = read_inputs(data.spec, paths)
    assert torch.equal(inputs, gather(data.train)[0][:3])
    assert names == [str(path) for path in paths]


def test_images_of_another_size_and_color_are_converted(build, idx_folder, tmp_path):
    data = build("idx", root=str(idx_folder), validation=0)
    Image.fromarray(np.full((31, 50, 3), 200, dtype=np.uint8)).save(tmp_path / "x.png")
    inputs = read_images(data.spec, [tmp_path / "x.png"])
    expected = (200 / 255 - data.spec.inputs.mean[0]) / data.spec.inputs.std[0]
    assert torch.allclose(inputs, torch.full((1, 1, 4, 5), expected), atol=1e-5)
