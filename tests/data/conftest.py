"""Fixtures for tests of data sources."""

import gzip

import pytest
import torch
from samples import idx_bytes

from dltrain.core.protocols import DataContext
from dltrain.core.registry import DATA


@pytest.fixture
def build(tmp_path):
    """Function that builds a source in an empty data folder; `build.warnings` has its warnings."""

    def make(name, *, seed=0, base=tmp_path, **options):
        context = DataContext(root=base, seed=seed, warn=make.warnings.append)
        return DATA[name].builder(context, **options)

    make.warnings = []
    return make


@pytest.fixture
def idx_folder(tmp_path):
    """Folder with 60 and 20 images of 3 classes in MNIST's layout; labels are compressed."""
    random = torch.Generator().manual_seed(1)
    for name, size in (("train", 60), ("t10k", 20)):
        images = torch.randint(256, (size, 4, 5), dtype=torch.uint8, generator=random)
        labels = (torch.arange(size) % 3).to(torch.uint8)
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        compressed = gzip.compress(idx_bytes(labels))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(compressed)
    return tmp_path
