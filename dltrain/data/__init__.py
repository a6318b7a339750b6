"""Data sources; importing the package registers them."""

from dltrain.data import cifar10, idx, image_folder, table, toy

__all__ = ["cifar10", "idx", "image_folder", "table", "toy"]
