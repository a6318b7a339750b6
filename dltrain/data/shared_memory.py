"""Shared memory, through which worker processes deliver batches."""

from __future__ import annotations

import os

from dltrain.core.errors import DataError

DIRECTORY = "/dev/shm"  # noqa: S108
"""Directory of shared memory in Linux; it is often small in a container, 64 MiB in Docker."""


def shared_memory_bytes() -> tuple[int, int] | None:
    """Return free and total bytes of shared memory; None if it has no limit of its own."""
    try:
        room = os.statvfs(DIRECTORY)
    except (AttributeError, OSError):  # not Linux
        return None
    if not room.f_blocks:  # a tmpfs mounted without a limit
        return None
    return room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize


def require_shared_memory(batch_bytes: int, batches: int) -> None:
    """Check that the workers' batches fit into shared memory together.

    Args:
        batch_bytes: Size of the largest batch in bytes.
        batches: Maximum number of batches at the same time.

    Raises:
        DataError: They do not fit.
    """
    room = shared_memory_bytes()
    if room is not None and batch_bytes * batches > room[0]:
        raise shared_memory_error(batch_bytes, batches)


def shared_memory_error(batch_bytes: int, batches: int) -> DataError:
    """Return the error for too little shared memory; see `require_shared_memory`."""
    room = shared_memory_bytes()
    size = (
        ""
        if room is None
        else f" ({_format_mebibytes(room[0])} of {_format_mebibytes(room[1])} are free)"
    )
    return DataError(
        f"{DIRECTORY}: shared memory is too small{size} for the batches of data.workers: up to "
        f"{batches} of {_format_mebibytes(batch_bytes)} each; increase it (docker run "
        "--shm-size=1g), or set data.workers=0 or a smaller train.batch_size"
    )


def _format_mebibytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
