"""Files and directories that survive a power cut: flushed before anything counts on them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file by a new content, so that a reader sees the old or the new one."""
    part = path.with_name(f".{path.name}.part")
    try:
        write(part, content)
        part.replace(path)
        sync(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def make_directory(path: Path) -> None:
    """Makes a directory and those above it, so that they survive a power cut."""
    if path.exists() or path == path.parent:
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def write(path: Path, content: bytes) -> None:
    """Writes a file; its content is on the disk, its name not before `sync` of its directory."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(directory: Path) -> None:
    """Flushes a directory's entries, so that a rename survives a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes a directory with all that is in it, if it is there."""
    if path.exists():
        shutil.rmtree(path)
