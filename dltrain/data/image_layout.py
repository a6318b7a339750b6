"""Detection of the classes and splits of images in a directory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dltrain.core.errors import DataError, shorten
from dltrain.data.image_decoding import SUFFIXES
from dltrain.data.labels import sorted_names

SPLIT_FOLDERS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Accepted folder names of each split, case-insensitive."""


class UnlabelledSplitError(DataError):
    """A split's folder has no labelled images.

    Attributes:
        train: Folder of the training images.
        labelled: Other splits whose folders have labelled images.
    """

    def __init__(self, message: str, train: Path, labelled: Sequence[str]) -> None:
        super().__init__(message)
        self.train = train
        self.labelled = labelled


@dataclass(frozen=True)
class ImageFiles:
    """Image files and their class indices, (files,) int64."""

    paths: list[Path]
    targets: Tensor

    def take(self, index: Tensor) -> ImageFiles:
        """Return the files at these indices, (samples,) int64."""
        return ImageFiles([self.paths[number] for number in index.tolist()], self.targets[index])


@dataclass(frozen=True)
class ImageLayout:
    """Images of a directory by split and class.

    Attributes:
        class_names: Class names, sorted as numbers if all are numbers, otherwise as text.
        splits: Images of each split with a folder; without split folders all are `train`.
        notice: Message about ignored files; empty if there are none.
    """

    class_names: tuple[str, ...]
    splits: dict[str, ImageFiles]
    notice: str


@dataclass(frozen=True)
class _Folder:
    """Direct entries of a directory, sorted by name, without hidden ones."""

    path: Path
    folders: list[Path] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


def find_images(root: Path) -> ImageLayout:
    """Find images in ROOT/CLASS, or in ROOT/SPLIT/CLASS with the splits of `SPLIT_FOLDERS`.

    Raises:
        UnlabelledSplitError: A split's folder has images without a class, or no images.
        DataError: There are fewer than two classes, a class has no images, or two folders have
            names of the same split.
    """
    top, ignored = _list_directory(root), Counter[str]()
    by_split = _split_folders(top)
    train = _list_directory(by_split["train"]) if by_split else top
    class_names = sorted_names(path.name for path in train.folders)
    if len(class_names) < 2:
        beside = f" and {_format_count(train.images)} beside them" if train.images else ""
        raise DataError(
            f"{train.path}: expected two or more folders, one per class, got "
            f"{len(class_names)} folders{beside}"
        )
    splits = {"train": _labelled_images(train, class_names, ignored)}
    others = {name: _list_directory(path) for name, path in by_split.items() if name != "train"}
    unlabelled = {name: split for name, split in others.items() if not _has_class(split, train)}
    for name, split in others.items():
        if name not in unlabelled:
            splits[name] = _labelled_images(split, class_names, ignored)
    if unlabelled:
        (name, split), *_ = unlabelled.items()
        message = _describe_unlabelled(name, split, train.path, class_names)
        raise UnlabelledSplitError(message, train.path, [n for n in splits if n != "train"])
    if by_split:
        _count_ignored(top, set(by_split.values()), ignored)
    return ImageLayout(class_names, splits, _notice(root, bool(by_split), ignored))


def _split_folders(top: _Folder) -> dict[str, Path]:
    """Return the folder of each split that has one; empty if the folders are classes."""
    named = {
        split: [path for path in top.folders if path.name.casefold() in names]
        for split, names in SPLIT_FOLDERS.items()
    }
    # A folder named train is a class if it contains no folders.
    holders = {
        split: [path for path in paths if _list_directory(path).folders]
        for split, paths in named.items()
    }
    if not holders["train"]:
        _require_train_classes(top.path, named, holders)
        return {}
    for split, paths in named.items():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            raise DataError(f"{top.path}: {names} are both names of the {split} split; keep one")
    return {split: paths[0] for split, paths in named.items() if paths}


def _require_train_classes(
    root: Path, named: dict[str, list[Path]], holders: dict[str, list[Path]]
) -> None:
    """Raise DataError if folders are splits, but none contains training classes."""
    others = [path.name for split in ("validation", "test") for path in named[split]]
    if named["train"] and others:
        train = _list_directory(named["train"][0])
        raise DataError(
            f"{train.path}: has {_format_count(train.images)} and no class folders; beside "
            f"{' and '.join(others)} it is the training split, laid out as {train.path}/CLASS/IMAGE"
        )
    split = [
        path for paths in holders.values() for path in paths if not _list_directory(path).images
    ]
    if split:
        raise DataError(
            f"{split[0]}: has the name of a split and class folders, but {root} has no folder "
            "named train"
        )


def _labelled_images(
    split: _Folder, class_names: tuple[str, ...], ignored: Counter[str]
) -> ImageFiles:
    paths: list[Path] = []
    targets: list[int] = []
    for folder in map(_list_directory, split.folders):
        name = folder.path.name
        if name not in class_names:
            raise DataError(
                f"{folder.path}: expected a class of the training images, "
                f"{shorten(', '.join(class_names), 200)}, got {name}"
            )
        if not folder.images:
            others = Counter[str]()
            _count_ignored(folder, set(), others)
            content = f", only {_format_ignored(others)}" if others else ""
            raise DataError(
                f"{folder.path}: has no image{content}; add images or remove the folder"
            )
        _count_ignored(folder, set(), ignored, images_are_read=True)
        paths += folder.images
        targets += [class_names.index(name)] * len(folder.images)
    _count_ignored(split, {*split.folders}, ignored)
    return ImageFiles(paths, torch.tensor(targets, dtype=torch.int64))


def _has_class(split: _Folder, train: _Folder) -> bool:
    return bool({path.name for path in split.folders} & {path.name for path in train.folders})


def _describe_unlabelled(
    name: str, split: _Folder, train: Path, class_names: tuple[str, ...]
) -> str:
    """Describe the problem of a split without class folders, and its solution."""
    classes = shorten(", ".join(class_names), 200)
    inside = [path for folder in split.folders for path in _list_directory(folder).images]
    images = split.images or inside
    has = f"has {_format_count(images)} and" if images else "has"
    message = (
        f"{split.path}: {has} no class folder; expected a {name} split as "
        f"{split.path}/CLASS/IMAGE, with the classes {classes}"
    )
    cut = f"data.root={train} takes every split from the training images"
    if not images:
        return f"{message}; add images or remove the folder; {cut}"
    return f"{message}; {cut}; for unlabelled images: dltrain predict RUN {images[0].parent}/*"


def _list_directory(folder: Path) -> _Folder:
    """List a directory.

    Raises:
        DataError: The directory can't be read.
    """
    listed = _Folder(folder)
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries), key=lambda entry: entry.name)
        for entry in found:
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            if entry.is_dir():
                listed.folders.append(path)
            elif entry.is_file() and path.suffix.lower() in SUFFIXES:
                listed.images.append(path)
            else:
                listed.others.append(path)
    except OSError as error:
        raise DataError(f"{folder}: can't be read: {error.strerror}") from error
    return listed


def _count_ignored(
    folder: _Folder, read: set[Path], ignored: Counter[str], *, images_are_read: bool = False
) -> None:
    """Count the ignored files in a directory.

    Args:
        folder: The directory.
        read: Subdirectories that are not counted.
        ignored: Counter by kind of file, to be updated.
        images_are_read: Whether images directly in the directory are read, so not counted.
    """
    ignored.update(_describe_suffix(path) for path in folder.others)
    if not images_are_read and folder.images:
        ignored[f"images directly in {folder.path}"] += len(folder.images)
    for inner in folder.folders:
        if inner not in read:
            for place, names, files in os.walk(inner):
                names[:] = [name for name in names if not name.startswith(".")]
                for path in (Path(place, name) for name in files if not name.startswith(".")):
                    is_image = path.suffix.lower() in SUFFIXES
                    ignored[f"images in {inner}" if is_image else _describe_suffix(path)] += 1


def _describe_suffix(path: Path) -> str:
    return f"{path.suffix.lower()} files" if path.suffix else "files without a suffix"


def _notice(root: Path, by_split: bool, ignored: Counter[str]) -> str:
    if not ignored:
        return ""
    wanted = "SPLIT/CLASS/IMAGE" if by_split else "CLASS/IMAGE"
    return (
        f"{root}: {ignored.total():,} files are ignored: {_format_ignored(ignored)}; images are "
        f"read from {wanted} and end in {', '.join(sorted(SUFFIXES))}"
    )


def _format_ignored(ignored: Counter[str]) -> str:
    return shorten(", ".join(f"{count:,} {kind}" for kind, count in ignored.most_common()), 300)


def _format_count(images: Sequence[Path]) -> str:
    return f"{len(images):,} image{'' if len(images) == 1 else 's'}"
