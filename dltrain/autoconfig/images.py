"""Config suggestions for images: one folder per class, or files in MNIST's format."""

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
"""Maximum number of images whose headers are read, evenly spaced among all."""
MAX_CACHED_BYTES = 512 * 2**20
"""Maximum size in bytes of all decoded images for caching them in memory."""
PRETRAINED = "{name: torchvision, arch: resnet18, pretrained: true, freeze: backbone}"
"""A model that needs a download, and is therefore only mentioned."""


def suggest_image_folder(root: Path) -> Suggestion:
    """Suggest a config for ROOT/CLASS, or ROOT/train/CLASS and folders of other splits.

    If the images beside `train` have no classes, all splits are taken from the training images.

    Raises:
        DataError: The folder has another layout, or an image can't be read.
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
    require_samples(root, len(train.paths), "training images")
    require_enough(root, counts, "images")

    paths = [path for part in parts.values() for path in part.paths]
    headers = [read_header(path) for path in paths[:: -(-len(paths) // MAX_HEADERS)]]
    size, channels = _input_size(headers, len(train.paths))
    sizes = _format_sizes(headers)
    fits = len(paths) * channels * size * size <= MAX_CACHED_BYTES
    cut, kept = holdout_options(len(train.paths), "images", apart=parts)
    data = {
        "name": "image_folder",
        "root": str(root),
        "size": Explained(
            size, f"height and width of the model's input in pixels; the files are {sizes}"
        ),
        "channels": Explained(channels, "grayscale" if channels == 1 else "color"),
        **cut,
        "cache": Explained("memory", "all images fit in memory, so each file is read once")
        if fits
        else "none",
        "augment": Explained(
            {"crop": max(1, size // 16)},
            "training images are shifted by a few pixels; add `flip: true` if a mirrored image "
            "keeps its class",
        ),
    }
    if len(paths) < 2000:
        data["workers"] = Explained(0, "few images: no worker processes needed")
    config = {
        "model": Explained(
            _model(size, kept),
            f"a small network, trained from scratch on {kept:,} images; for photographs, a network "
            "pretrained on ImageNet (downloaded once) is often better, with data.size: 224 and",
            alternative=f"model: {PRETRAINED}",
        ),
        "data": Explained(data, format_class_counts(counts, "images")),
        **_training_sections(counts, kept),
    }
    seen = {"classes": format_class_counts(counts, "images"), "sizes": sizes}
    for name in ("validation", "test"):
        if name in parts:
            seen[name] = f"{len(parts[name].paths):,} images in a separate folder"
    return Suggestion("images, one folder per class", config, seen, doubts)


def suggest_idx(folder: Path) -> Suggestion:
    """Suggest a config for two or four files in MNIST's format.

    Raises:
        DataError: A file is damaged.
    """
    images, labels = read_images_and_labels(folder, TRAIN_FILES)
    samples, _, height, width = images.shape
    values, numbers = labels.unique(return_counts=True)
    counts = {str(v): n for v, n in zip(values.tolist(), numbers.tolist(), strict=True)}
    require_samples(folder, samples, "training images")
    require_enough(folder, counts, "images")
    has_test = not missing_files(folder, TEST_FILES)
    cut, kept = holdout_options(samples, "images", apart=("test",))
    summary = f"{format_class_counts(counts, 'images')}, {height} x {width}, grayscale"
    data = {
        "name": "idx",
        "root": str(folder),
        **cut,
        "augment": Explained({"crop": 1}, "training images are shifted by up to one pixel"),
    }
    config = {
        "model": _model(min(height, width), kept),
        "data": Explained(data, summary),
        **_training_sections(counts, kept),
    }
    test = "separate files" if has_test else "none: the t10k files are missing"
    return Suggestion("images in MNIST's format", config, {"classes": summary, "test": test})


def _input_size(headers: Sequence[ImageHeader], num_train: int) -> tuple[int, int]:
    """Return the height and width of an input, and its number of channels."""
    shorter = int(median(min(header.width, header.height) for header in headers))
    most = 128 if num_train >= 5000 else 64
    return max(8, min(shorter, most)), 1 if all(header.is_gray for header in headers) else 3


def _model(size: int, samples: int) -> dict[str, Any]:
    """Return a convolutional network with as many stages as the image size allows."""
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
    """Return loss, optimizer and training length for a number of training images."""
    chosen = classification(counts, "images")
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
