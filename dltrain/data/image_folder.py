"""Data from the user's image files: one folder per class."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from dltrain.core.data_spec import DataSpec, ImageInputs
from dltrain.core.errors import OptionError
from dltrain.core.option_types import Fraction, NonNegativeInt, PositiveFloat, PositiveInt
from dltrain.core.paths import ConfigPath, resolve_path
from dltrain.core.protocols import Data, DataContext
from dltrain.core.registry import DATA
from dltrain.data.augment import Augment
from dltrain.data.cache import MemoryCache, require_cache_memory
from dltrain.data.image_decoding import decode_image
from dltrain.data.image_layout import ImageFiles, find_images
from dltrain.data.image_statistics import Background, image_inputs
from dltrain.data.images import ImageTransform
from dltrain.data.in_memory import class_counts
from dltrain.data.splits import TEST_SEED, HoldoutSize, hold_out
from dltrain.data.streaming import Streaming


@DATA.register
def image_folder(
    context: DataContext,
    /,
    *,
    root: ConfigPath,
    size: PositiveInt = 224,
    channels: Literal[1, 3] = 3,
    validation: HoldoutSize = 0.1,
    test: HoldoutSize = 0.1,
    workers: NonNegativeInt = 2,
    timeout: PositiveFloat = 300.0,
    cache: Literal["none", "memory"] = "none",
    augment: Augment | None = None,
    background: Background = "auto",
    mean: tuple[Fraction, ...] | None = None,
    std: tuple[PositiveFloat, ...] | None = None,
) -> Data:
    """Your own images in ROOT/CLASS, or in ROOT/train/CLASS, ROOT/val/CLASS and ROOT/test/CLASS.

    Split folders may also be named training, valid, validation, dev or testing, in any case.
    Images are read during training, resized to a shorter side of `size` pixels, and center-cropped.
    16-bit images, which must be grayscale, are scaled by the range of the training images. A
    split without a folder is taken from the training images. The fingerprint covers the files'
    names and sizes.

    ```yaml
    data: {name: image_folder, root: my_images, size: 64, augment: {flip: true}}
    ```

    Args:
        root: Directory of the images.
        size: Height and width of an input in pixels.
        channels: 3 for color, 1 for grayscale.
        validation: Validation images if there is no folder val: a number, or a fraction.
        test: Test images if there is no folder test: a number, or a fraction.
        workers: Number of processes that read images; 0 reads them in the training process.
        timeout: Maximum time in seconds for a worker to read a batch; then the run fails.
        cache: memory keeps the decoded images, one byte per pixel and channel, so that each is
            read once; none reads them in every epoch.
        augment: Random augmentation of the training images (default: none); padding is black.
        background: Gray level behind transparent parts of images; auto is white, or another level
            if the training images have a higher contrast to it.
        mean: Mean of each channel, from 0 to 1 (default: ImageNet's; for 16-bit images, that of
            the training images).
        std: Standard deviation of each channel, from 0 to 1 (default: as for `mean`).
    """
    folder = resolve_path(root, context.root)
    for option, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != channels:
            raise OptionError(
                option, f"expected {channels} values, one per channel, got {len(values)}"
            )

    layout = find_images(folder)
    class_names, parts = layout.class_names, layout.splits
    if layout.notice:
        context.warn(layout.notice)
    _split_off(parts, "test", test, TEST_SEED)
    _split_off(parts, "validation", validation, context.seed)

    shape = (channels, size, size)
    inputs = image_inputs(parts["train"].paths, shape, background, mean, std)
    sample_bytes = math.prod(shape) * inputs.dtype.itemsize
    transform = ImageTransform(
        inputs, dtype=context.dtype, device=context.device, seed=context.seed, augment=augment
    )

    if cache == "memory":
        require_cache_memory(
            sum(len(part.paths) for part in parts.values()), sample_bytes, context.device
        )

    def split(part: ImageFiles) -> Streaming:
        return Streaming(
            _ReadImage(part.paths, shape, inputs),
            part.targets.to(context.device),
            names=part.paths,
            sample_bytes=sample_bytes,
            seed=context.seed,
            workers=workers,
            timeout=timeout,
            transform=transform,
            cache=MemoryCache(len(part.paths), shape, inputs.dtype, context.device)
            if cache == "memory"
            else None,
        )

    splits = {name: split(part) for name, part in parts.items()}
    spec = DataSpec(
        input_shape=shape,
        num_outputs=len(class_names),
        inputs=inputs,
        class_names=class_names,
        class_counts=class_counts(parts["train"].targets, len(class_names)),
    )
    return Data(
        spec,
        splits["train"],
        splits.get("validation"),
        splits.get("test"),
        source=str(folder),
        fingerprint=_fingerprint(folder, parts),
        files=tuple(sorted(path for part in parts.values() for path in part.paths)),
        split_fingerprint=_split_fingerprint(folder, parts),
    )


@dataclass(frozen=True)
class _ReadImage:
    """Function from a sample's index to its pixels, which worker processes run."""

    paths: list[Path]
    shape: tuple[int, int, int]
    inputs: ImageInputs

    def __call__(self, number: int) -> Tensor:
        return decode_image(self.paths[number], self.shape, self.inputs)


def _split_off(parts: dict[str, ImageFiles], name: str, amount: float, seed: int) -> None:
    """Move images from the training split to one without a folder."""
    if name in parts:
        return
    train = parts["train"]
    kept, held = hold_out(train.targets, amount, seed, name=name)
    parts["train"] = train.take(kept)
    if len(held):
        parts[name] = train.take(held)


def _fingerprint(root: Path, parts: dict[str, ImageFiles]) -> str:
    """Return the SHA-256 of names and sizes: reading every image would take as long as an epoch."""
    digest = hashlib.sha256()
    for path in sorted(path for part in parts.values() for path in part.paths):
        digest.update(b"%s\0%d\n" % (_name(root, path), path.stat().st_size))
    return digest.hexdigest()


def _split_fingerprint(root: Path, parts: dict[str, ImageFiles]) -> str:
    """Return the SHA-256 of the names of each split's files."""
    digest = hashlib.sha256()
    for name, part in sorted(parts.items()):
        digest.update(f"{name} {len(part.paths)}\n".encode())
        for path in part.paths:
            digest.update(_name(root, path) + b"\n")
    return digest.hexdigest()


def _name(root: Path, path: Path) -> bytes:
    """Return a file's path relative to the root, which may contain bytes that are not UTF-8."""
    return path.relative_to(root).as_posix().encode(errors="surrogateescape")
