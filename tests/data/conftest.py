"""What the tests of data share."""

import gzip

import pytest
import torch
from samples import idx_bytes

from dltrain.core.protocols import DataContext
from dltrain.core.registry import DATA


@pytest.fixture
def build(tmp_path):
    """Builds a source in an empty data folder; `build.said` has the lines that it printed."""

    def make(name, *, seed=0, base=tmp_path, **options):
        context = DataContext(root=base, seed=seed, warn=make.said.append)
        return DATA[name].builder(context, **options)

    make.said = []
    return make


@pytest.fixture
def idx_folder(tmp_path):
    """Four small files in MNIST's layout, two of them packed: 60 and 20 images, 3 classes."""
    random = torch.Generator().manual_seed(1)
    for name, size in (("train", 60), ("t10k", 20)):
        images = torch.randint(256, (size, 4, 5), dtype=torch.uint8, generator=random)
        labels = (torch.arange(size) % 3).to(torch.uint8)
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        packed = gzip.compress(idx_bytes(labels))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(packed)
    return tmp_path
