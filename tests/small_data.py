"""Small data sets in the layouts that the shipped configs read."""

from pathlib import Path

import torch
from PIL import Image


def write_idx(path: Path, values: torch.Tensor) -> None:
    """Write a uint8 tensor as an IDX file (http://yann.lecun.com/exdb/mnist)."""
    head = bytes((0, 0, 8, values.ndim)) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + values.numpy().tobytes())


def write_images(folder: Path, train: int, test: int, side: int, classes: int) -> None:
    """Write distinct images in MNIST's file layout; a bright row marks the class."""
    generator = torch.Generator().manual_seed(0)
    for name, count in (("train", train), ("t10k", test)):
        labels = torch.arange(count) % classes
        pixels = torch.randint(0, 120, (count, side, side), generator=generator)
        pixels[torch.arange(count), labels * 2] += 100
        write_idx(folder / f"{name}-images-idx3-ubyte", pixels.to(torch.uint8))
        write_idx(folder / f"{name}-labels-idx1-ubyte", labels.to(torch.uint8))


def write_cifar(folder: Path, records_per_file: int) -> None:
    """Write random images in the layout of CIFAR-10's binary version."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for name in (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"):
        records = torch.randint(
            0, 256, (records_per_file, 3073), generator=generator, dtype=torch.uint8
        )
        records[:, 0] = torch.arange(records_per_file) % 10
        (folder / name).write_bytes(records.numpy().tobytes())


def write_color_images(folder: Path, images_per_class: int) -> None:
    """Write red and blue images of different sizes, one folder per class."""
    for name, color in (("blue", (20, 20, 220)), ("red", (220, 20, 20))):
        (folder / name).mkdir(parents=True)
        for number in range(images_per_class):
            Image.new("RGB", (40 + number, 50), color).save(folder / name / f"{number}.png")


def write_text(path: Path, lines: int) -> None:
    """Write lines of six random words."""
    generator = torch.Generator().manual_seed(0)
    words = ("to", "be", "or", "not", "what", "art", "thou,", "king?")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(
            " ".join(words[i] for i in torch.randint(8, (6,), generator=generator)) + ".\n"
            for _ in range(lines)
        ),
        encoding="utf-8",
    )


def write_sentences(folder: Path) -> None:
    """Write a few lines in the layout of SST-2."""
    folder.mkdir(parents=True)
    for name, count in (("train", 60), ("dev", 20), ("test", 20)):
        lines = [f"a {('dull', 'fine')[i % 2]} film of {i} hours\t{i % 2}\n" for i in range(count)]
        (folder / f"{name}.tsv").write_text("".join(lines))


def write_all(root: Path) -> None:
    """Write all data sets, and the folder `my_images` next to the root."""
    write_images(root / "MNIST" / "raw", 300, 60, 28, 10)
    write_images(root / "FashionMNIST" / "raw", 300, 60, 28, 10)
    write_cifar(root / "cifar-10-batches-bin", 40)
    write_color_images(root.parent / "my_images", 12)
    write_sentences(root / "sst2")
    write_text(root / "tinyshakespeare.txt", 100)
