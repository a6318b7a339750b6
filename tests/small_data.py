"""A data folder with a little of everything that the shipped configs ask for."""

from pathlib import Path

import torch
from PIL import Image


def write_idx(path: Path, values: torch.Tensor) -> None:
    """A uint8 tensor as an IDX file, http://yann.lecun.com/exdb/mnist."""
    head = bytes((0, 0, 8, values.ndim)) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + values.numpy().tobytes())


def write_images(folder: Path, train: int, test: int, side: int, classes: int) -> None:
    """Different pictures in MNIST's file layout; a bright row tells the class."""
    generator = torch.Generator().manual_seed(0)
    for name, count in (("train", train), ("t10k", test)):
        labels = torch.arange(count) % classes
        pixels = torch.randint(0, 120, (count, side, side), generator=generator)
        pixels[torch.arange(count), labels * 2] += 100
        write_idx(folder / f"{name}-images-idx3-ubyte", pixels.to(torch.uint8))
        write_idx(folder / f"{name}-labels-idx1-ubyte", labels.to(torch.uint8))


def write_cifar(folder: Path, records_a_file: int) -> None:
    """Random pictures in the layout of CIFAR-10's binary version."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for name in (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"):
        records = torch.randint(
            0, 256, (records_a_file, 3073), generator=generator, dtype=torch.uint8
        )
        records[:, 0] = torch.arange(records_a_file) % 10
        (folder / name).write_bytes(records.numpy().tobytes())


def write_pictures(folder: Path, a_class: int) -> None:
    """Red and blue pictures of different sizes, a folder a class."""
    for name, colour in (("blue", (20, 20, 220)), ("red", (220, 20, 20))):
        (folder / name).mkdir(parents=True)
        for number in range(a_class):
            Image.new("RGB", (40 + number, 50), colour).save(folder / name / f"{number}.png")


def write_text(path: Path, lines: int) -> None:
    """Lines of a few words, in an order that is not to be foretold."""
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
    """A few lines in the layout of SST-2."""
    folder.mkdir(parents=True)
    for name, count in (("train", 60), ("dev", 20), ("test", 20)):
        lines = [f"a {('dull', 'fine')[i % 2]} film of {i} hours\t{i % 2}\n" for i in range(count)]
        (folder / f"{name}.tsv").write_text("".join(lines))


def write_all(root: Path) -> None:
    """Everything; `my_images` stands beside it, in the working directory."""
    write_images(root / "MNIST" / "raw", 300, 60, 28, 10)
    write_images(root / "FashionMNIST" / "raw", 300, 60, 28, 10)
    write_cifar(root / "cifar-10-batches-bin", 40)
    write_pictures(root.parent / "my_images", 12)
    write_sentences(root / "sst2")
    write_text(root / "tinyshakespeare.txt", 100)
