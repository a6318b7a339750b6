"""Interception of file operations, which a callback observes and may make fail."""

from __future__ import annotations

import builtins
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

Callback = Callable[..., None]
"""Function called before each operation with its name, path and arguments; may raise."""

Opener = Callable[[str, int], int]
_OPEN = os.open


class _Raw(io.FileIO):
    """An unbuffered file that reports each write."""

    def __init__(self, path: str, mode: str, callback: Callback, opener: Opener | None) -> None:
        callback("open", path, mode)
        self._callback, self._path = callback, path
        with mock.patch.object(os, "open", _OPEN):  # this operation has been reported
            super().__init__(path, mode, opener=opener)

    def write(self, data: Any) -> int:
        self._callback("write", self._path, bytes(data))
        return super().write(data)

    def truncate(self, size: int | None = None) -> int:
        self._callback("truncate", self._path, size)
        return super().truncate(size)


@contextmanager
def intercept_file_operations(folder: Path, callback: Callback) -> Iterator[None]:
    """Call `callback` before each operation of this process on files below `folder`.

    Files are not flushed to the disk, which is slow and has no effect on the tests.
    """
    below = os.path.realpath(folder)
    real_open, real_os_open, real_fsync = io.open, os.open, os.fsync
    places: dict[int, str] = {}

    def absolute(path: Any, folder: int | None = None) -> str | None:
        if isinstance(path, int):
            return None
        if folder is not None:
            return f"{places[folder]}/{os.fsdecode(path)}" if folder in places else None
        path = Path.cwd() / os.fsdecode(path)
        place = str(path.parent.resolve() / path.name)
        inside = place == below or place.startswith(below + os.sep)
        return place if inside else None

    def open_file(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Opener | None = None,
    ) -> Any:
        place = absolute(file)
        if place is None:
            return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = _Raw(place, mode.replace("t", "").replace("b", ""), callback, opener)
        places[raw.fileno()] = place
        if "+" in mode:
            binary: Any = io.BufferedRandom(raw)
        else:
            binary = io.BufferedReader(raw) if raw.readable() else io.BufferedWriter(raw)
        if "b" in mode:
            return binary
        return io.TextIOWrapper(binary, encoding, errors, newline)

    def os_open(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        place = absolute(path, options.get("dir_fd"))
        if place is not None:
            callback("open", place, "r")
        descriptor = real_os_open(path, flags, *arguments, **options)
        if place is not None:
            places[descriptor] = place
        return descriptor

    def fsync(descriptor: int) -> None:
        if descriptor in places:
            callback("fsync", places[descriptor])
        else:
            real_fsync(descriptor)

    def one_path(name: str) -> Callable[..., Any]:
        function = getattr(os, name)

        def operation(path: Any, *arguments: Any, **options: Any) -> Any:
            place = absolute(path)
            if place is not None:
                callback("unlink" if name == "remove" else name, place, *arguments[:1])
            return function(path, *arguments, **options)

        return operation

    def two_paths(name: str) -> Callable[..., Any]:
        function = getattr(os, name)

        def operation(before: Any, after: Any, **options: Any) -> None:
            place = absolute(before)
            if place is not None:
                callback("rename", place, absolute(after))
            function(before, after, **options)

        return operation

    changed = {"open": os_open, "fsync": fsync}
    changed |= {n: one_path(n) for n in ("mkdir", "unlink", "remove", "rmdir", "truncate")}
    changed |= {n: two_paths(n) for n in ("rename", "replace")}
    with (
        mock.patch.multiple(os, **changed),
        mock.patch.object(io, "open", open_file),
        mock.patch.object(builtins, "open", open_file),
        # shutil then uses paths instead of descriptors.
        mock.patch.object(shutil, "_use_fd_functions", False),
    ):
        yield
