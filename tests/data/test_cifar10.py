"""CIFAR-10 from small files in the layout of its binary version."""

import io
import tarfile

import pytest
import torch
from samples import gather

from dltrain.core.errors import DataError
from dltrain.data import cifar10 as module

NUM = 20  # images per file


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "FILE_BYTES", NUM * module.RECORD_BYTES)


def contents():
    random = torch.Generator().manual_seed(0)
    for name in (*module.TRAIN_FILES, module.TEST_FILE):
        labels = (torch.arange(NUM) % 10).to(torch.uint8)[:, None]
        pixels = torch.randint(256, (NUM, 3072), dtype=torch.uint8, generator=random)
        yield name, torch.cat([labels, pixels], 1).numpy().tobytes()


def write(folder):
    folder.mkdir(parents=True)
    for name, content in contents():
        (folder / name).write_bytes(content)


def write_archive(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents():
            info = tarfile.TarInfo(f"{module.FOLDER}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("folder", ["cifar-10-batches-bin", "CIFAR10/cifar-10-batches-bin", "here"])
def test_files_are_found(build, tmp_path, folder):
    write(tmp_path / folder)
    root = {"root": str(tmp_path / "here")} if folder == "here" else {}
    data = build("cifar10", validation=10, **root)
    assert (len(data.train), len(data.validation), len(data.test)) == (90, 10, 20)
    assert data.spec.input_shape == (3, 32, 32)
    assert data.spec.class_counts == (9,) * 10
    assert len(data.spec.inputs.mean) == 3
    assert data.source == str(tmp_path / folder)


@pytest.mark.parametrize("folder", [".", "CIFAR10"])
def test_the_archive_is_extracted(build, tmp_path, folder):
    write_archive(tmp_path / folder / module.ARCHIVE)
    data = build("cifar10", validation=0)
    write(tmp_path / "plain" / module.FOLDER)
    plain = build("cifar10", validation=0, root=str(tmp_path / "plain"))
    assert data.fingerprint == plain.fingerprint


def test_channels_are_red_green_and_blue_planes_in_row_order(build, tmp_path):
    write(tmp_path / module.FOLDER)
    data = build("cifar10", validation=0)
    first = (tmp_path / module.FOLDER / module.TEST_FILE).read_bytes()[:3073]
    _, targets, _ = gather(data.test)
    assert int(targets[0]) == first[0]
    assert data.test.samples[0].flatten().tolist() == list(first[1:])
    assert int(data.test.samples[0, 1, 2, 3]) == first[1 + 1024 + 2 * 32 + 3]


def test_damaged_files_are_named(build, tmp_path):
    write(tmp_path / module.FOLDER)
    path = tmp_path / module.FOLDER / "data_batch_3.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"data_batch_3\.bin: expected 61460 bytes, got 61459"):
        build("cifar10", validation=0)
    path.write_bytes(b"\x0a" + content[1:])
    with pytest.raises(DataError, match=r"data_batch_3\.bin: record 1 has label 10"):
        build("cifar10", validation=0)


def test_without_a_network_the_error_says_so(build, monkeypatch):
    monkeypatch.setattr(module, "URLS", ("http://127.0.0.1:9/",))
    with pytest.raises(DataError, match="can't be downloaded"):
        build("cifar10")
    assert build.warnings
