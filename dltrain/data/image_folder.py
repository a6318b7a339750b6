"""Your own pictures: a folder for each class."""

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

    Folders of splits may also be called training, valid, validation, dev or testing, in any case.
    Images are read while training, scaled until their shorter side is `size` and cut to a square.
    Those of 16 bits, which must be grey, are scaled by the range of the training images.
    A split that has no folder of its own is cut from the training images. The fingerprint is
    over the files' names and sizes.

    Args:
        root: Folder of the pictures.
        size: Height and width of an input, in pixels.
        channels: 3 for colour, 1 for grey.
        validation: Pictures to validate on where there is no folder val: a number, or a fraction.
        test: Pictures to test on where there is no folder test: a number, or a fraction.
        workers: Processes that read pictures; 0 reads them in the training process.
        timeout: Seconds that a worker may take for a batch before the run is ended.
        cache: memory keeps the decoded pictures, a byte a channel and pixel, so that each is read
            once.
        augment: Random changes to training images; what moves in is black.
        background: Grey level behind transparent parts of images; auto is white, unless the
            training images stand out more clearly on another one.
        mean: Mean of each channel, from 0 to 1; if not given ImageNet's, of 16-bit images that of
            the training images.
        std: Standard deviation of each channel, from 0 to 1; if not given as with `mean`.
    """
    folder = resolve_path(root, context.root)
    for option, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != channels:
            raise OptionError(option, f"{len(values)} values for {channels} channels")

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
    """A sample's number to pixels; what worker processes run."""

    paths: list[Path]
    shape: tuple[int, int, int]
    inputs: ImageInputs

    def __call__(self, number: int) -> Tensor:
        return decode_image(self.paths[number], self.shape, self.inputs)


def _split_off(parts: dict[str, ImageFiles], name: str, amount: float, seed: int) -> None:
    """Moves pictures from the training split to one that has no folder."""
    if name in parts:
        return
    train = parts["train"]
    kept, held = hold_out(train.targets, amount, seed, name=name)
    parts["train"] = train.take(kept)
    if len(held):
        parts[name] = train.take(held)


def _fingerprint(root: Path, parts: dict[str, ImageFiles]) -> str:
    """SHA-256 over names and sizes: reading every image would take as long as an epoch."""
    digest = hashlib.sha256()
    for path in sorted(path for part in parts.values() for path in part.paths):
        digest.update(b"%s\0%d\n" % (_name(root, path), path.stat().st_size))
    return digest.hexdigest()


def _split_fingerprint(root: Path, parts: dict[str, ImageFiles]) -> str:
    """SHA-256 over the names of each split's files."""
    digest = hashlib.sha256()
    for name, part in sorted(parts.items()):
        digest.update(f"{name} {len(part.paths)}\n".encode())
        for path in part.paths:
            digest.update(_name(root, path) + b"\n")
    return digest.hexdigest()


def _name(root: Path, path: Path) -> bytes:
    """A file's path under the root; it may have bytes that are not UTF-8."""
    return path.relative_to(root).as_posix().encode(errors="surrogateescape")
