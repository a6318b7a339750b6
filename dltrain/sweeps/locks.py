"""Locks on files that are released when their process dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dltrain.checkpoints.atomic_files import open_regular, regular


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; it is released when the process dies."""
    with open(path, "a", opener=regular) as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def is_locked(path: Path) -> bool:
    """Return whether another process holds the lock; this would release a lock of our own."""
    with suppress(FileNotFoundError):
        descriptor = open_regular(path)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
    return False


class JournalLock:
    """An Optuna `BaseJournalFileLock` that is released when its process dies."""

    def __init__(self, path: Path) -> None:
        self._path, self._stack = path, ExitStack()

    def acquire(self) -> bool:
        """Wait for the lock and acquire it."""
        self._stack.enter_context(lock_file(self._path))
        return True

    def release(self) -> None:
        """Release the lock."""
        self._stack.close()
