"""Data sources; importing the package registers them."""

from dltrain.data import (
    breast_cancer,
    cifar10,
    corpus,
    csv,
    idx,
    image_folder,
    mnist,
    pairs,
    text,
    toy,
)

__all__ = [
    "breast_cancer",
    "cifar10",
    "corpus",
    "csv",
    "idx",
    "image_folder",
    "mnist",
    "pairs",
    "text",
    "toy",
]
