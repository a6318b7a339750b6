"""Images in IDX files, the format of MNIST."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from dltrain.checkpoints.atomic_files import open_named, read_named
from dltrain.core.errors import DataError, OptionError
from dltrain.core.paths import ConfigPath, resolve_path
from dltrain.core.protocols import Data, DataContext
from dltrain.core.registry import DATA
from dltrain.data.augment import Augment
from dltrain.data.images import in_memory_images
from dltrain.data.splits import HoldoutSize

TRAIN_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

_MAX_DEFLATE_RATIO = 1032  # maximum bytes from one compressed byte: 258 from two bits


@DATA.register
def idx(
    context: DataContext,
    /,
    *,
    root: ConfigPath,
    class_names: tuple[str, ...] = (),
    validation: HoldoutSize = 0.1,
    augment: Augment | None = None,
) -> Data:
    """Your own grayscale images in four files with MNIST's names and format, plain or .gz.

    Without the two t10k files there is no test split.

    ```yaml
    data: {name: idx, root: my_digits, class_names: [zero, one, two]}
    ```

    Args:
        root: Directory of the files.
        class_names: Name of each label, in increasing order (default: the labels as text).
        validation: Validation samples, taken from the training set: a number, or a fraction.
        augment: Random augmentation of the training images (default: none).
    """
    folder = resolve_path(root, context.root)
    absent = missing_files(folder, TRAIN_FILES)
    if absent:
        raise OptionError("root", f"{folder} has no {absent[0]} and no {absent[0]}.gz")
    images, labels = read_images_and_labels(folder, TRAIN_FILES)
    values, targets = labels.unique(return_inverse=True)
    names = class_names or tuple(str(value) for value in values.tolist())
    if len(names) != len(values):
        raise OptionError(
            "class_names",
            f"expected {len(values)} names, one for each label of {folder / TRAIN_FILES[1]}, "
            f"got {len(names)}",
        )
    test = None
    if len(missing_files(folder, TEST_FILES)) < len(TEST_FILES):
        test_images, test_labels = read_images_and_labels(folder, TEST_FILES)
        unknown = test_labels[~torch.isin(test_labels, values)]
        if len(unknown):
            label = int(unknown[0])
            raise DataError(f"{folder / TEST_FILES[1]}: no training sample has label {label}")
        test = (test_images, torch.searchsorted(values, test_labels))
    return in_memory_images(
        context,
        (images, targets),
        test,
        class_names=names,
        validation=validation,
        augment=augment,
        source=str(folder),
        files=existing_files(folder, TRAIN_FILES + TEST_FILES),
    )


def read_idx(path: Path, num_dimensions: int) -> Tensor:
    """Read an IDX file of unsigned bytes as a uint8 tensor of the shape in its header.

    The format is documented with the MNIST data: two zero bytes, the type 0x08, the number of
    dimensions, each dimension as a big-endian 32-bit integer, then the values in row-major order.

    Args:
        path: The file, decompressed if its name ends in .gz.
        num_dimensions: Expected number of dimensions.

    Raises:
        DataError: The file can't be read, has another format, or its size contradicts its header.
    """
    shape = idx_shape(path, num_dimensions)
    start, size = 4 + 4 * num_dimensions, math.prod(shape)
    differs = DataError(f"{path}: expected {size} bytes of shape {shape} after the header")
    try:
        if path.suffix != ".gz":
            if path.stat().st_size != start + size or not size:
                raise differs
            content = bytearray(read_named(path))
        else:
            packed = zlib.decompressobj(wbits=31)
            file = read_named(path)
            # One byte more than expected proves that the content is too long, and bounds memory.
            limit = min(start + size + 1, _MAX_DEFLATE_RATIO * len(file))
            content = bytearray(packed.decompress(file, limit))
            if not packed.eof or packed.unused_data:
                raise differs
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    except zlib.error as error:
        raise DataError(f"{path}: damaged gzip file: {error}") from error
    if len(content) != start + size or not size:
        raise differs
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).view(shape)


def idx_shape(path: Path, num_dimensions: int) -> tuple[int, ...]:
    """Read the shape in the header of an IDX file, without its content.

    Raises:
        DataError: The file can't be read, or is not an IDX file of bytes in `num_dimensions`.
    """
    header_bytes = 4 + 4 * num_dimensions
    try:
        with open_named(path) as file:
            header = file.read(1 << 16)
        if path.suffix == ".gz":
            header = zlib.decompressobj(wbits=31).decompress(header, header_bytes)
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    except zlib.error as error:
        raise DataError(f"{path}: damaged gzip file: {error}") from error
    header = header[:header_bytes]
    if len(header) < header_bytes or header[:4] != bytes((0, 0, 8, num_dimensions)):
        raise DataError(
            f"{path}: not an IDX file of bytes in {num_dimensions} dimensions: "
            f"it starts with {header[:4].hex(' ') or 'nothing'}"
        )
    return struct.unpack(f">{num_dimensions}I", header[4:])


def read_images_and_labels(folder: Path, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Read images and labels, plain or .gz.

    Returns:
        Images (samples, 1, height, width) uint8, and labels (samples,) int64.

    Raises:
        DataError: A file is damaged, or the two have different numbers of samples.
    """
    paths = [resolve_file(folder, name) for name in names]
    num_images, num_labels = idx_shape(paths[0], 3)[0], idx_shape(paths[1], 1)[0]
    if num_images != num_labels:  # checked before anything is decompressed
        raise DataError(f"{paths[0]} has {num_images} images, {paths[1]} {num_labels} labels")
    return read_idx(paths[0], 3)[:, None], read_idx(paths[1], 1).long()


def resolve_file(folder: Path, name: str) -> Path:
    """Return the path of a file if it exists, otherwise its path with .gz."""
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def existing_files(folder: Path, names: tuple[str, ...]) -> tuple[Path, ...]:
    """Return the paths of those files that exist, plain or .gz."""
    absent = missing_files(folder, names)
    return tuple(resolve_file(folder, name) for name in names if name not in absent)


def missing_files(folder: Path, names: tuple[str, ...]) -> list[str]:
    """Return the names of those files that exist neither plain nor as .gz."""
    return [name for name in names if not resolve_file(folder, name).exists()]
