"""A lock on a run directory, which ends with the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dltrain.checkpoints.atomic_files import regular
from dltrain.core.errors import RunError, shorten

NAME = "lock"
_HELD: set[Path] = set()
"""Directories that this process has locked."""


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory.

    Raises:
        RunError: Another process holds it; the message names the process.
    """
    # A POSIX record lock belongs to the process: worker processes don't inherit it.
    with open(directory / NAME, "a+", errors="replace", opener=regular) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = shorten(file.read(200).strip()) or "another process"
            raise RunError(f"{directory} is in use by {holder}") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        held = directory.resolve()
        _HELD.add(held)
        try:
            yield
        finally:
            _HELD.discard(held)
        file.truncate(0)


def is_locked(directory: Path) -> bool:
    """Return whether a process holds the lock of a directory."""
    # Closing any handle of the lock file would release a lock that this process holds.
    if directory.resolve() in _HELD:
        return True
    try:
        with open(directory / NAME, "rb", opener=regular) as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    return False
