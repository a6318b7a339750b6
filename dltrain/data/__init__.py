"""Data sources; importing the package registers them."""

from dltrain.data import (
    breast_cancer,
    cifar10,
    corpus,
    csv,
    idx,
    image_folder,
    mnist,
    text,
    toy,
    toy_digits,
)

__all__ = [
    "breast_cancer",
    "cifar10",
    "corpus",
    "csv",
    "idx",
    "image_folder",
    "mnist",
    "text",
    "toy",
    "toy_digits",
]
