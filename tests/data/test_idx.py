"""IDX files are read exactly, or refused by name."""

import gzip

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import gather, idx_bytes

from dltrain.core.errors import DataError, OptionError
from dltrain.data.idx import read_idx

VALUES = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
GOOD = idx_bytes(VALUES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("idx")


def read(folder, content, compressed):
    path = folder / ("x-idx3-ubyte.gz" if compressed else "x-idx3-ubyte")
    path.write_bytes(gzip.compress(content, 1) if compressed else content)
    return read_idx(path, 3)


def read_or_refuse(attempt, name):
    """Return the result, or None if the file was refused by name."""
    try:
        return attempt()
    except DataError as error:
        if name not in str(error):
            raise
        return None


@pytest.mark.parametrize("compressed", [False, True])
def test_reading_restores_the_written_values(folder, compressed):
    assert torch.equal(read(folder, GOOD, compressed), VALUES)


@given(compressed=st.booleans(), length=st.integers(0, len(GOOD) - 1))
def test_truncated_files_are_refused(folder, compressed, length):
    with pytest.raises(DataError, match="x-idx3-ubyte"):
        read(folder, GOOD[:length], compressed)


@given(compressed=st.booleans(), extra=st.binary(min_size=1, max_size=40))
def test_longer_files_are_refused(folder, compressed, extra):
    with pytest.raises(DataError, match="x-idx3-ubyte"):
        read(folder, GOOD + extra, compressed)


@given(compressed=st.booleans(), bits=st.sets(st.integers(0, 16 * 8 - 1), min_size=1))
def test_damaged_headers_are_refused_or_declare_the_same_number_of_bytes(folder, compressed, bits):
    content = bytearray(GOOD)
    for bit in bits:
        content[bit // 8] ^= 1 << bit % 8
    result = read_or_refuse(lambda: read(folder, bytes(content), compressed), "x-idx3-ubyte")
    assert result is None or torch.equal(result.flatten(), VALUES.flatten())


@given(data=st.data())
def test_damaged_gzip_files_are_refused_or_read_the_same(folder, data):
    content = bytearray(gzip.compress(GOOD))
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    path = folder / "damaged.gz"
    path.write_bytes(content)
    # Some bits do not affect the content, such as the time.
    result = read_or_refuse(lambda: read_idx(path, 3), "damaged.gz")
    assert result is None or torch.equal(result, VALUES)


@pytest.mark.parametrize("ending", [slice(0, -1), slice(0, -8)])
def test_truncated_gzip_files_are_refused(folder, ending):
    path = folder / "short.gz"
    path.write_bytes(gzip.compress(GOOD)[ending])
    with pytest.raises(DataError, match=r"short\.gz"):
        read_idx(path, 3)


def test_gzip_files_with_trailing_data_are_refused(folder):
    path = folder / "long.gz"
    path.write_bytes(gzip.compress(GOOD) + b"more")
    with pytest.raises(DataError, match=r"long\.gz"):
        read_idx(path, 3)


def test_a_decompression_bomb_is_refused(folder):
    path = folder / "bomb.gz"
    path.write_bytes(gzip.compress(GOOD + bytes(50_000_000)))
    with pytest.raises(DataError, match=r"bomb\.gz: expected 24 bytes"):
        read_idx(path, 3)


def test_custom_images_are_split_and_normalized(build, idx_folder):
    data = build("idx", root=str(idx_folder), validation=12)
    assert (len(data.train), len(data.validation), len(data.test)) == (48, 12, 20)
    assert data.spec.input_shape == (1, 4, 5)
    assert data.spec.class_names == ("0", "1", "2")
    assert data.spec.class_counts == (16, 16, 16)
    inputs, targets, _ = gather(data.train)
    assert torch.bincount(targets).tolist() == [16, 16, 16]
    assert inputs.mean().abs() < 1e-5  # normalized with the training split
    assert inputs.std(correction=0) == pytest.approx(1, abs=1e-5)


def test_the_splits_contain_the_samples_of_the_files(build, idx_folder):
    data = build("idx", root=str(idx_folder), validation=12)
    mean, std = data.spec.inputs.mean[0], data.spec.inputs.std[0]

    def pixels(split):
        inputs, targets, _ = gather(split)
        images = ((inputs * std + mean) * 255).round().to(torch.uint8)
        return [(p.flatten().tolist(), int(t)) for p, t in zip(images, targets, strict=True)]

    def written(name, size):
        images = read_idx(idx_folder / f"{name}-images-idx3-ubyte", 3)
        labels = read_idx(idx_folder / f"{name}-labels-idx1-ubyte.gz", 1)
        assert len(images) == size
        return [(p.flatten().tolist(), int(t)) for p, t in zip(images, labels, strict=True)]

    assert pixels(data.test) == written("t10k", 20)
    assert sorted(pixels(data.train) + pixels(data.validation)) == sorted(written("train", 60))


def test_the_fingerprint_depends_on_the_samples(build, idx_folder):
    first = build("idx", root=str(idx_folder), validation=12).fingerprint
    assert build("idx", root=str(idx_folder), validation=3, seed=5).fingerprint == first
    path = idx_folder / "t10k-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert build("idx", root=str(idx_folder), validation=12).fingerprint != first


def test_labels_need_not_start_at_zero(build, idx_folder):
    path = idx_folder / "train-labels-idx1-ubyte"
    path.write_bytes(idx_bytes((torch.arange(60) % 2 * 4 + 3).to(torch.uint8)))
    for name in ("images-idx3-ubyte", "labels-idx1-ubyte.gz"):
        (idx_folder / f"t10k-{name}").unlink()
    data = build("idx", root=str(idx_folder), validation=0, class_names=("three", "seven"))
    assert data.test is None
    assert data.validation is None
    assert data.spec.class_names == ("three", "seven")
    assert gather(data.train)[1].tolist() == [0, 1] * 30


def test_errors_name_the_cause(build, idx_folder, tmp_path):
    with pytest.raises(OptionError, match=r"expected 3 names, one for each label of .*, got 2"):
        build("idx", root=str(idx_folder), class_names=("a", "b"))
    with pytest.raises(OptionError, match="has no train-images-idx3-ubyte"):
        build("idx", root=str(tmp_path / "elsewhere"))
    (idx_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    labels = idx_folder / "t10k-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(torch.full((20,), 9, dtype=torch.uint8)))
    with pytest.raises(DataError, match="no training sample has label 9"):
        build("idx", root=str(idx_folder))
    labels.write_bytes(idx_bytes(torch.zeros(19, dtype=torch.uint8)))
    with pytest.raises(DataError, match=r"has 20 images, .* 19 labels"):
        build("idx", root=str(idx_folder))
