"""Files and directories that survive a power failure, opened without following links.

A run directory may be untrusted. Files in it are opened by `open_regular`, or by
`open(..., opener=regular)`: never through a link, and never a FIFO, a device or a file with a
second hard link. Names of temporary files are unpredictable.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

MAX_NAME_PREFIX = 40
"""Characters of a file's name in that of its temporary file; names have at most 255 bytes."""

_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.part", re.DOTALL)
_OWN_PIPE = re.compile(r"/dev/(stdin|fd/[0-9]+)|/proc/self/fd/[0-9]+")


class UnsafeFileError(OSError):
    """The path is not a plain file: a symbolic link, FIFO, device or hard-linked file."""


def special_file_kind(found: os.stat_result) -> str | None:
    """Return why a directory entry is not a plain file or directory; None if it is one.

    Args:
        found: Result of `lstat`.
    """
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    if (kind := kinds.get(stat.S_IFMT(found.st_mode))) is not None:
        return kind
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        return "a file with a second name (a hard link)"
    return None


def open_regular(path: str | Path, flags: int = os.O_RDONLY, *, levels: int = 1) -> int:
    """Open a plain file and return its descriptor, without ever blocking.

    Args:
        path: The file.
        flags: Flags of `os.open`; a new file has mode 0666, reduced by the umask.
        levels: Number of the last components of the path that must not be links.

    Raises:
        UnsafeFileError: The path is a symbolic link, FIFO, device or hard-linked file.
        IsADirectoryError: The path is a directory.
        OSError: The file can't be opened; see `os.open`.
    """
    path = Path(path)
    truncate = flags & os.O_TRUNC  # only after its type is checked
    flags = flags & ~os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        if levels == 1:
            descriptor = os.open(path, flags, 0o666)
        else:
            descriptor = _open_below(path.parents[levels - 1], path.parts[-levels:], flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
            raise UnsafeFileError(errno.ELOOP, "is a link, a FIFO or a device", str(path)) from None
        error.filename = str(path)
        raise
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
        if truncate:
            os.ftruncate(descriptor, 0)
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise UnsafeFileError(errno.EINVAL, f"is {special_file_kind(found)}", str(path))


def _open_below(root: Path, parts: tuple[str, ...], flags: int) -> int:
    """Open the path of `parts` below `root`, one component at a time."""
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            folder = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below = os.open(part, folder, dir_fd=here)
            os.close(here)
            here = below
        return os.open(parts[-1], flags, 0o666, dir_fd=here)
    finally:
        os.close(here)


def regular(path: str, flags: int) -> int:
    """Open a plain file; an `opener` for `open`. See `open_regular`."""
    return open_regular(path, flags)


def read(path: Path, max_bytes: int, *, levels: int = 1) -> bytes:
    """Return the content of a plain file.

    Args:
        path: The file.
        max_bytes: Maximum size in bytes; a larger file is not read.
        levels: See `open_regular`.

    Raises:
        OSError: The file can't be read or is not a plain file; EFBIG if it is too large.
    """
    with os.fdopen(open_regular(path, levels=levels), "rb") as file:
        return _content(file, path, max_bytes)


def open_named(path: str | Path, *, pipe: bool = False) -> BufferedReader:
    """Open a file that the user has named for reading; the path may contain links.

    Args:
        path: The file.
        pipe: Whether a pipe of this process is allowed, such as that of the shell's `<(...)`.

    Raises:
        UnsafeFileError: The file is a FIFO, a socket or a device.
        IsADirectoryError: The path is a directory.
        OSError: The file can't be opened.
    """
    _refuse_special(Path(path).stat(), path, pipe)  # opening a device may have effects
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _refuse_special(os.fstat(descriptor), path, pipe)
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_named(path: str | Path, max_bytes: int | None = None, *, pipe: bool = False) -> bytes:
    """Return the content of a file that the user has named; see `open_named`.

    Args:
        path: The file.
        max_bytes: Maximum size in bytes; a larger file is not read, and a pipe is read up to this
            size. None sets no limit.
        pipe: See `open_named`.

    Raises:
        OSError: See `open_named`; EFBIG if the file is too large, ENOMEM if memory is too small.
    """
    with open_named(path, pipe=pipe) as file:
        return _content(file, path, max_bytes)


def _content(file: BufferedReader, path: str | Path, max_bytes: int | None) -> bytes:
    found = os.fstat(file.fileno())
    size = found.st_size
    if max_bytes is not None and size > max_bytes:
        message = f"has {size:,} bytes, and at most {max_bytes:,} are read"
        raise OSError(errno.EFBIG, message, str(path))
    try:
        if max_bytes is None:
            return file.read()
        # Python allocates as many bytes as it is asked to read.
        return file.read(size if stat.S_ISREG(found.st_mode) else max_bytes)
    except MemoryError:
        message = f"has {size:,} bytes, which do not fit in memory"
        raise OSError(errno.ENOMEM, message, str(path)) from None


def _refuse_special(found: os.stat_result, path: str | Path, pipe: bool) -> None:
    mode = found.st_mode
    if stat.S_ISREG(mode) or (pipe and stat.S_ISFIFO(mode) and _OWN_PIPE.fullmatch(str(path))):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise UnsafeFileError(errno.EINVAL, f"is {special_file_kind(found)}, not a file", str(path))


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the content of a file; readers see either the old or the new content."""
    clear_leftovers(path.parent, path.name)
    part = path.with_name(temporary_name(path.name))
    try:
        with open(part, "xb", opener=regular) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # marks the file as in use
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
        sync(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def temporary_name(name: str) -> str:
    """Return an unpredictable name for a file or directory that will be renamed to `name`."""
    return f".{name[:MAX_NAME_PREFIX]}.{secrets.token_hex(8)}.part"


def is_temporary(name: str) -> bool:
    """Return whether a name is a result of `temporary_name`."""
    return _LEFTOVER.fullmatch(name) is not None


def clear_leftovers(directory: Path, name: str | None = None) -> None:
    """Remove temporary files of killed processes, but not those that are being written.

    Args:
        directory: Directory of the files; its subdirectories are ignored.
        name: Name whose temporary files are removed (default: all temporary files).
    """
    prefix = None if name is None else name[:MAX_NAME_PREFIX]
    with os.scandir(directory) as entries:
        for entry in entries:
            found = _LEFTOVER.fullmatch(entry.name)
            if found is None or prefix not in (None, found["name"]):
                continue
            if not entry.is_file(follow_symlinks=False):
                continue
            with suppress(FileNotFoundError, UnsafeFileError):
                descriptor = open_regular(entry.path)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    Path(entry.path).unlink()
                except BlockingIOError:
                    pass  # another process is writing it
                finally:
                    os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create a directory and its parents, so that they survive a power failure."""
    if path.exists() or path == path.parent:
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def write(path: Path, content: bytes) -> None:
    """Write and flush a new file; its name is on the disk only after `sync` of its directory."""
    with open(path, "xb", opener=regular) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(directory: Path) -> None:
    """Flush the entries of a directory, so that a rename survives a power failure."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a directory tree or a file if it exists, without following links."""
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
