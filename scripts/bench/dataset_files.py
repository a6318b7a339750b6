"""Decompressed and optionally shortened copies of the data sets, which all frameworks read."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

SIZES = {"images-idx3": 28 * 28, "labels-idx1": 1}
"""Kind of file to the bytes of one sample."""

HEADERS = {"images-idx3": 16, "labels-idx1": 8}
"""Kind of file to the bytes of its header."""

SOURCES = ("mnist", "sst2")


def prepare(
    root: Path, target: Path, samples: int | None, sources: tuple[str, ...] = SOURCES
) -> dict[str, int]:
    """Copy MNIST and SST-2 and return the number of training samples of each.

    Args:
        root: Folder with MNIST/raw and sst2; files may be compressed with gzip.
        target: Folder to create.
        samples: Maximum number of samples per split; None for all.
        sources: Data sets to copy.
    """
    counts = {}
    if "mnist" in sources:
        counts["mnist"] = _prepare_mnist(root, target, samples)
    if "sst2" in sources:
        counts["sst2"] = _prepare_sst2(root, target, samples)
    return counts


def _prepare_mnist(root: Path, target: Path, samples: int | None) -> int:
    count = 0
    (target / "MNIST" / "raw").mkdir(parents=True)
    for split in ("t10k", "train"):
        for kind, size in SIZES.items():
            name = f"{split}-{kind}-ubyte"
            content = _read(root / "MNIST" / "raw" / name)
            header = HEADERS[kind]
            count = min((len(content) - header) // size, samples or sys.maxsize)
            head = content[:4] + count.to_bytes(4, "big") + content[8:header]
            path = target / "MNIST" / "raw" / name
            path.write_bytes(head + content[header : header + count * size])
    return count


def _prepare_sst2(root: Path, target: Path, samples: int | None) -> int:
    count = 0
    (target / "sst2").mkdir(parents=True)
    for split in ("test", "dev", "train"):
        lines = _read(root / "sst2" / f"{split}.tsv").splitlines(keepends=True)[:samples]
        (target / "sst2" / f"{split}.tsv").write_bytes(b"".join(lines))
        count = len(lines)
    return count


def _read(path: Path) -> bytes:
    compressed = path.with_name(f"{path.name}.gz")
    if path.exists():
        return path.read_bytes()
    if compressed.exists():
        return gzip.decompress(compressed.read_bytes())
    sys.exit(
        f"neither {path} nor {compressed.name} exists; "
        "set DLTRAIN_DATA to a folder with MNIST and SST-2"
    )
