"""Extraction of selected files from .tar.gz archives of untrusted content."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from dltrain.checkpoints.atomic_files import sync
from dltrain.core.errors import DataError, shorten

_CHUNK_BYTES = 1 << 18
_SLACK_BYTES = 1 << 24  # maximum size of an archive besides the members that are extracted


def extract(archive: Path, members: Mapping[str, int], directory: Path) -> None:
    """Extract the named regular files of a .tar.gz archive: all of them or none.

    Args:
        archive: The .tar.gz file.
        members: Mapping from a member's name in the archive to its size in bytes.
        directory: Output directory; each file gets the last component of its member's name.

    Raises:
        DataError: The archive is damaged or far too large, or a member is missing, is not a
            regular file, or has another size.
    """
    missing = set(members)
    parts: dict[Path, Path] = {}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with gzip.open(archive) as decompressed:
            stream = _BoundedReader(decompressed, sum(members.values()) + _SLACK_BYTES)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    if member.name not in missing:
                        continue
                    content = tar.extractfile(member) if member.isreg() else None
                    if content is None or member.size != members[member.name]:
                        raise DataError(
                            f"{archive}: expected {member.name} to be a regular file of "
                            f"{members[member.name]} bytes; download the archive again"
                        )
                    target = directory / Path(member.name).name
                    part = target.with_name(target.name + ".part")
                    parts[part] = target
                    with content, part.open("wb") as file:
                        shutil.copyfileobj(content, file)
                        file.flush()
                        os.fsync(file.fileno())
                    missing.remove(member.name)
            while stream.read(_CHUNK_BYTES):  # the checksum is at the end
                pass
        if missing:
            names = ", ".join(sorted(missing))
            raise DataError(f"{archive}: the archive does not contain {names}")
        for part, target in parts.items():
            part.replace(target)
        sync(directory)
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
        raise DataError(f"{archive}: can't be extracted: {shorten(str(error), 300)}") from error
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


class _BoundedReader(io.RawIOBase):
    """A file of which only the first bytes can be read: an archive may be a decompression bomb."""

    def __init__(self, file: gzip.GzipFile, max_bytes: int) -> None:
        self._file, self._max_bytes = file, max_bytes

    def read(self, size: int = -1) -> bytes:
        self._check(self._max_bytes + 1 if size < 0 else self.tell() + size)
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._check(offset)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def _check(self, end: int) -> None:
        if end > self._max_bytes:
            raise tarfile.ReadError(f"contains more than {self._max_bytes} bytes")
