"""Pictures in IDX files, the format of MNIST."""

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

_MAX_DEFLATE_RATIO = 1032  # bytes that one byte can unpack to: 258 from two bits


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
    """Your own grey pictures in four files named and laid out as MNIST's, as they are or as .gz.

    The two t10k files may be absent; then there is no test split.

    Args:
        root: Folder of the files.
        class_names: A name for each label, in their order; the labels' numbers if not given.
        validation: Training samples to validate on: a number, or a fraction.
        augment: Random changes to training pictures.
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
            f"{len(names)} names for the {len(values)} labels of {folder / TRAIN_FILES[1]}",
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
    """An IDX file of unsigned bytes as a tensor, uint8, of the shape that its header gives.

    The format is described with the MNIST data: two zero bytes, the type 0x08, the number of
    dimensions, each dimension as a big-endian 32-bit number, then the values, the last dimension
    fastest.

    Args:
        path: The file; one that ends in .gz is unpacked.
        num_dimensions: How many dimensions it must have.

    Raises:
        DataError: The file can't be read, is not such a file, or is shorter or longer than its
            header says.
    """
    shape = idx_shape(path, num_dimensions)
    start, size = 4 + 4 * num_dimensions, math.prod(shape)
    differs = DataError(f"{path}: its header promises {size} bytes {shape}, its content differs")
    try:
        if path.suffix != ".gz":
            if path.stat().st_size != start + size or not size:
                raise differs
            content = bytearray(read_named(path))
        else:
            packed = zlib.decompressobj(wbits=31)
            file = read_named(path)
            # one byte more than promised shows that there is too much, and no bomb goes off
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
    """The shape that the header of an IDX file gives; nothing but the start of the file is read.

    Raises:
        DataError: The file can't be read, or is no IDX file of bytes in so many dimensions.
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
    """Pictures and labels, raw or .gz.

    Returns:
        (samples, 1, height, width) uint8 and (samples,) int64.

    Raises:
        DataError: A file is damaged, or the two have different numbers of samples.
    """
    paths = [resolve_file(folder, name) for name in names]
    pictures, labels = idx_shape(paths[0], 3)[0], idx_shape(paths[1], 1)[0]
    if pictures != labels:  # seen before anything is unpacked
        raise DataError(f"{paths[0]} has {pictures} pictures, {paths[1]} {labels} labels")
    return read_idx(paths[0], 3)[:, None], read_idx(paths[1], 1).long()


def resolve_file(folder: Path, name: str) -> Path:
    """Where a file is, or would be: under its own name, or else with .gz."""
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def existing_files(folder: Path, names: tuple[str, ...]) -> tuple[Path, ...]:
    """Those of the files that a folder has, plain or as .gz."""
    absent = missing_files(folder, names)
    return tuple(resolve_file(folder, name) for name in names if name not in absent)


def missing_files(folder: Path, names: tuple[str, ...]) -> list[str]:
    """Which of the files a folder has neither plain nor as .gz."""
    return [name for name in names if not resolve_file(folder, name).exists()]
