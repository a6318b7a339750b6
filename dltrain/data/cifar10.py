"""CIFAR-10 from its binary version: the Python version consists of pickles, which run code."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dltrain.checkpoints.atomic_files import read_named
from dltrain.core.errors import DataError
from dltrain.core.paths import ConfigPath, resolve_path
from dltrain.core.protocols import Data, DataContext
from dltrain.core.registry import DATA
from dltrain.data.archive import extract
from dltrain.data.augment import Augment
from dltrain.data.download import fetch
from dltrain.data.images import in_memory_images
from dltrain.data.splits import HoldoutSize

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
FOLDER = "cifar-10-batches-bin"
ARCHIVE = "cifar-10-binary.tar.gz"
URLS = ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
DIGEST = "md5:c32a1d4ab5d03f1284b67883e8d87530"  # as published beside the archive
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
RECORD_BYTES = 1 + 3 * 32 * 32  # the label, then the red, green and blue plane
FILE_BYTES = 10_000 * RECORD_BYTES


@DATA.register
def cifar10(
    context: DataContext,
    /,
    *,
    root: ConfigPath | None = None,
    validation: HoldoutSize = 5000,
    augment: Augment | None = None,
) -> Data:
    """CIFAR-10: 60,000 color images in ten classes, (3, 32, 32), 10,000 of them for test.

    Krizhevsky, "Learning multiple layers of features from tiny images", 2009. The files of the
    binary version, or its archive, are searched in ROOT/cifar-10-batches-bin,
    ROOT/CIFAR10/cifar-10-batches-bin and ROOT, and downloaded to ROOT/CIFAR10 if missing.

    ```yaml
    data: {name: cifar10, augment: {crop: 4, flip: true}}
    ```

    Args:
        root: Directory of the files (default: the common data directory).
        validation: Validation samples, taken from the training set: a number, or a fraction.
        augment: Random augmentation of the training images (default: none).
    """
    base = context.root if root is None else resolve_path(root, context.root)
    folder = _folder(context, base)
    batches = [read_batch(folder / name) for name in TRAIN_FILES]
    images, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return in_memory_images(
        context,
        (images, targets),
        read_batch(folder / TEST_FILE),
        class_names=CLASS_NAMES,
        validation=validation,
        augment=augment,
        source=str(folder),
        files=tuple(folder / name for name in (*TRAIN_FILES, TEST_FILE)),
    )


def read_batch(path: Path) -> tuple[Tensor, Tensor]:
    """Read one file of 10,000 records.

    Returns:
        Pixels (10000, 3, 32, 32) uint8 and labels (10000,) int64.

    Raises:
        DataError: The file has another size, or a label above 9.
    """
    try:
        size = path.stat().st_size
        if size != FILE_BYTES:
            raise DataError(f"{path}: expected {FILE_BYTES} bytes, got {size}")
        content = bytearray(read_named(path))
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    records = torch.frombuffer(content, dtype=torch.uint8).view(-1, RECORD_BYTES)
    targets = records[:, 0].long()
    wrong = (targets >= len(CLASS_NAMES)).nonzero().flatten().tolist()
    if wrong:
        label = int(targets[wrong[0]])
        raise DataError(
            f"{path}: record {wrong[0] + 1} has label {label}, expected at most 9; "
            "the file is damaged"
        )
    return records[:, 1:].reshape(-1, 3, 32, 32), targets


def _folder(context: DataContext, base: Path) -> Path:
    """Return the directory of the files, after downloading and extracting them if necessary."""
    names = (*TRAIN_FILES, TEST_FILE)
    for folder in (base / FOLDER, base / "CIFAR10" / FOLDER, base):
        if all((folder / name).exists() for name in names):
            return folder
    home = base / "CIFAR10"
    archive = next((p for p in (base / ARCHIVE, home / ARCHIVE) if p.exists()), home / ARCHIVE)
    if not archive.exists():
        context.warn(f"downloading CIFAR-10 (162 MB) to {home}")
        fetch(URLS, archive, DIGEST)
    folder = archive.parent / FOLDER
    extract(archive, {f"{FOLDER}/{name}": FILE_BYTES for name in names}, folder)
    return folder
