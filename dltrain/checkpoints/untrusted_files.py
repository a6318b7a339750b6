"""Verification of the files of a run directory, which may be untrusted.

`verify` refuses a directory in which a link, a special file or a directory has the name of a file
that dltrain reads or writes, or a file is too large. See `untrusted_json` for their content.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from dltrain.checkpoints.atomic_files import is_temporary, special_file_kind
from dltrain.checkpoints.untrusted_json import GIB, KIB, MIB
from dltrain.core.errors import RunError, shorten

FILES = {
    "config.yaml": 256 * KIB,
    "record.json": 16 * MIB,
    "summary.json": 16 * MIB,
    "inputs.json": 64 * MIB,
    "lock": 4 * KIB,
    "metrics.jsonl": GIB,
    "log.txt": GIB,
    "report.html": GIB,
    "samples.png": GIB,
}
"""Files of a run directory, and the maximum size of each in bytes."""

_STEP = r"checkpoints/\.?step-[0-9]{10,}[^/]*"
_POINT = r"tensorboard/[0-9]{5,}"
_FILES_IN_FOLDERS = {
    r"checkpoints/(best|latest)\.json": 16 * KIB,
    rf"{_STEP}/manifest\.json": 64 * KIB,
    rf"{_STEP}/state\.json": 64 * MIB,
    rf"{_STEP}/[^/]+": sys.maxsize,  # limited by `load_checkpoint`
    r"tensorboard/(events\.out\.tfevents\..+|projector_config\.pbtxt)": 64 * GIB,
    rf"{_POINT}/test/(tensors\.tsv|metadata\.tsv|sprite\.png)": GIB,
    r"exports/[^/]+\.(onnx|pt2|safetensors)": 64 * GIB,
    r"exports/[^/]+\.md": 16 * MIB,
}

MAX_ENTRIES = 100_000
"""Maximum number of files and directories that are verified in a run directory."""

MAX_DIRECTORY_DEPTH = 8


class DirectoryLayout:
    """Files and directories that a directory may contain, as patterns of paths below it.

    Args:
        files: Patterns of files, and the maximum size in bytes; the first match decides.
        folders: Patterns of directories. All entries of a matching top-level directory are
            verified.
        closed: Patterns of directories whose entries are not verified.
    """

    def __init__(
        self, files: Mapping[str, int], folders: Collection[str], closed: Collection[str] = ()
    ) -> None:
        self._files = [
            (re.compile(pattern, re.DOTALL), max_size) for pattern, max_size in files.items()
        ]
        self._folders = re.compile("|".join([*folders, *closed]))
        self._closed = re.compile("|".join(closed) or r"(?!)")

    def max_bytes(self, path: str) -> int | None:
        """Return the maximum size of the file with this path; None if no pattern matches."""
        if is_temporary(path):
            return GIB
        fitting = (max_size for pattern, max_size in self._files if pattern.fullmatch(path))
        return next(fitting, None)

    def is_folder(self, path: str) -> bool:
        """Return whether a directory may have this path."""
        return self._folders.fullmatch(path) is not None

    def is_closed(self, path: str) -> bool:
        """Return whether the entries of this directory are not verified."""
        return self._closed.fullmatch(path) is not None


RUN_LAYOUT = DirectoryLayout(
    {re.escape(name): max_size for name, max_size in FILES.items()} | _FILES_IN_FOLDERS,
    ["checkpoints", "tensorboard", "exports", _STEP, _POINT, rf"{_POINT}/test"],
)
"""Layout of a run directory."""


def verify(directory: Path, layout: DirectoryLayout = RUN_LAYOUT) -> None:
    """Check everything that dltrain reads or writes in a directory, without opening any file.

    Other entries at the top level are ignored; dltrain does not touch them.

    Args:
        directory: Directory of a run or a sweep; the path to it may contain links.
        layout: Files and directories that it may contain.

    Raises:
        RunError: A link, a FIFO, a device, a directory, a file with a second hard link or a file
            that is too large has the name of a file of the layout; the message names it.
    """
    places, count = [(directory, "")], 0
    while places:
        place, above = places.pop()
        for entry in _entries(place):
            path = above + entry.name
            max_size, is_folder = layout.max_bytes(path), layout.is_folder(path)
            if not above and max_size is None and not is_folder:
                continue
            found = _status(directory, entry)
            if found is None:
                continue
            count += 1
            if count > MAX_ENTRIES or path.count("/") > MAX_DIRECTORY_DEPTH:
                raise _unsafe_entry(directory, path, "more than dltrain writes into a directory")
            if stat.S_ISDIR(found.st_mode):
                if max_size is not None:
                    raise _unsafe_entry(directory, path, "a directory in the place of a file")
                if not layout.is_closed(path):
                    places.append((place / entry.name, f"{path}/"))
            elif is_folder:
                raise _unsafe_entry(directory, path, "a file in the place of a directory")
            elif max_size is not None and found.st_size > max_size:
                size = f"larger ({found.st_size:,} bytes) than such a file can be ({max_size:,})"
                raise _unsafe_entry(directory, path, size)


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    """Iterate over the entries of a directory; over none if it was removed meanwhile."""
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(
            f"{shorten(str(directory), 300)}: can't be read: {error.strerror}"
        ) from error


def _status(directory: Path, entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the type and size of an entry; None if another process has removed it meanwhile."""
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    if (kind := special_file_kind(found)) is not None:
        raise _unsafe_entry(directory, os.path.relpath(entry.path, directory), kind)
    return found


def _unsafe_entry(directory: Path, path: str, kind: str) -> RunError:
    return RunError(
        f"{shorten(str(directory), 300)}: {shorten(path, 200)} is {kind}; dltrain does not use a "
        "directory with it: remove it, or copy the rest elsewhere"
    )
