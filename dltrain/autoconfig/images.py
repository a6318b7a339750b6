"""What to propose for pictures: a folder for each class, or files in MNIST's format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from dltrain.autoconfig.config_draft import Explained, Suggestion
from dltrain.autoconfig.training import (
    classification,
    format_class_counts,
    holdout_options,
    model_selection,
    require_enough,
    require_samples,
    training_length,
)
from dltrain.data.idx import TEST_FILES, TRAIN_FILES, missing_files, read_images_and_labels
from dltrain.data.image_decoding import ImageHeader, read_header
from dltrain.data.image_layout import UnlabelledSplitError, find_images

MAX_HEADERS = 1000
"""Pictures whose size is looked at, evenly among all."""
MAX_CACHED_BYTES = 512 * 2**20
"""Decoded pictures that fit into so much are kept in memory."""
PRETRAINED = "{name: torchvision, arch: resnet18, pretrained: true, freeze: backbone}"
"""A model that needs a download, and so is only named."""


def suggest_image_folder(root: Path) -> Suggestion:
    """For ROOT/CLASS, or ROOT/train/CLASS and its siblings.

    Where the images beside `train` have no classes, all splits are cut from the training images.

    Raises:
        DataError: The folder is not laid out so, or an image can't be read.
    """
    doubts = []
    try:
        layout = find_images(root)
    except UnlabelledSplitError as error:
        if error.labelled:
            raise
        root, doubts = error.train, [f"only {error.train} is used: {error}"]
        layout = find_images(root)
    class_names, parts = layout.class_names, layout.splits
    train = parts["train"]
    numbers = train.targets.bincount(minlength=len(class_names)).tolist()
    counts = dict(zip(class_names, numbers, strict=True))
    require_samples(root, len(train.paths), "pictures to train on")
    require_enough(root, counts, "pictures")

    paths = [path for part in parts.values() for path in part.paths]
    headers = [read_header(path) for path in paths[:: -(-len(paths) // MAX_HEADERS)]]
    size, channels = _input_size(headers, len(train.paths))
    sizes = _format_sizes(headers)
    fits = len(paths) * channels * size * size <= MAX_CACHED_BYTES
    cut, kept = holdout_options(len(train.paths), "pictures", apart=parts)
    data = {
        "name": "image_folder",
        "root": str(root),
        "size": Explained(size, f"pixels a side of what the network sees; the files have {sizes}"),
        "channels": Explained(channels, "grey" if channels == 1 else "colour"),
        **cut,
        "cache": Explained("memory", "they fit: each file is read once") if fits else "none",
        "augment": Explained(
            {"crop": max(1, size // 16)},
            "training pictures are moved by a few pixels; add `flip: true` where a mirrored "
            "picture is still of its class",
        ),
    }
    if len(paths) < 2000:
        data["workers"] = Explained(0, "few enough to be read without helpers")
    config = {
        "model": Explained(
            _model(size, kept),
            f"a small network, from scratch, for {kept:,} pictures; one that was trained on "
            "ImageNet, downloaded once, is often better for photographs, with data.size: 224 and",
            alternative=f"model: {PRETRAINED}",
        ),
        "data": Explained(data, format_class_counts(counts, "pictures")),
        **_training_sections(counts, kept),
    }
    seen = {"classes": format_class_counts(counts, "pictures"), "sizes": sizes}
    for name in ("validation", "test"):
        if name in parts:
            seen[name] = f"{len(parts[name].paths):,} pictures in a folder of their own"
    return Suggestion("pictures, a folder for each class", config, seen, doubts)


def suggest_idx(folder: Path) -> Suggestion:
    """For four files, or two, in MNIST's format.

    Raises:
        DataError: A file is damaged.
    """
    images, labels = read_images_and_labels(folder, TRAIN_FILES)
    samples, _, height, width = images.shape
    values, numbers = labels.unique(return_counts=True)
    counts = {str(v): n for v, n in zip(values.tolist(), numbers.tolist(), strict=True)}
    require_samples(folder, samples, "pictures to train on")
    require_enough(folder, counts, "pictures")
    has_test = not missing_files(folder, TEST_FILES)
    cut, kept = holdout_options(samples, "pictures", apart=("test",))
    told = f"{format_class_counts(counts, 'pictures')}, {height} x {width}, grey"
    data = {
        "name": "idx",
        "root": str(folder),
        **cut,
        "augment": Explained({"crop": 1}, "training pictures are moved by a pixel"),
    }
    config = {
        "model": _model(min(height, width), kept),
        "data": Explained(data, told),
        **_training_sections(counts, kept),
    }
    tested = "files of its own" if has_test else "none: the t10k files are not there"
    return Suggestion("pictures in MNIST's format", config, {"classes": told, "test": tested})


def _input_size(headers: Sequence[ImageHeader], num_train: int) -> tuple[int, int]:
    """Height and width of an input, and its channels."""
    shorter = int(median(min(header.width, header.height) for header in headers))
    most = 128 if num_train >= 5000 else 64
    return max(8, min(shorter, most)), 1 if all(header.is_gray for header in headers) else 3


def _model(size: int, samples: int) -> dict[str, Any]:
    """A convolutional network with as many stages as the pictures have room for."""
    widths = (16, 32, 64, 128) if samples < 2000 else (32, 64, 128, 128)
    stages = 1 if size < 14 else 2 if size < 40 else 3 if size < 100 else 4
    return {
        "name": "cnn",
        "channels": list(widths[:stages]),
        "padding": "same",
        "batch_norm": True,
        "dropout": 0.25,
    }


def _training_sections(counts: dict[str, int], samples: int) -> dict[str, Any]:
    """Loss, optimizer and length for so many training pictures."""
    chosen = classification(counts, "pictures")
    train = training_length(samples, steps=2000, max_epochs=40)
    return {
        "loss": chosen["loss"],
        "optimizer": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.01},
        "schedule": {"name": "one_cycle", "warmup": 0.2},
        "metrics": chosen["metrics"],
        "train": train,
        **model_selection(chosen["best"], train["epochs"].value),
    }


def _format_sizes(headers: Sequence[ImageHeader]) -> str:
    least = min(headers, key=lambda header: header.width * header.height)
    most = max(headers, key=lambda header: header.width * header.height)
    low, high = f"{least.width} x {least.height}", f"{most.width} x {most.height}"
    return low if low == high else f"{low} to {high}"
