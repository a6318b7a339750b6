"""Data sources; importing the package registers them."""

from dltrain.data import (
    breast_cancer,
    cifar10,
    corpus,
    csv,
    idx,
    image_folder,
    mnist,
    sst2,
    text_csv,
    toy,
    toy_digits,
    toy_text,
)

__all__ = [
    "breast_cancer",
    "cifar10",
    "corpus",
    "csv",
    "idx",
    "image_folder",
    "mnist",
    "sst2",
    "text_csv",
    "toy",
    "toy_digits",
    "toy_text",
]
