"""Files and directories that survive a power cut, opened without following links.

A run directory may come from a stranger. What is read or written in one is opened by
`open_regular`, or by `open(..., opener=regular)`: never through a link, never a FIFO or a device,
never a file that has a second name elsewhere. Temporary files have names that nobody can predict.
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

LONGEST_KEPT_NAME = 40
"""Characters of a file's name that its temporary file repeats: names have at most 255 bytes."""

_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.part", re.DOTALL)


_OWN_PIPE = re.compile(r"/dev/(stdin|fd/[0-9]+)|/proc/self/fd/[0-9]+")


class UnsafeFileError(OSError):
    """A link, a FIFO, a device, or a file with a second name, in the place of a plain file."""


def special_file_kind(found: os.stat_result) -> str | None:
    """What keeps a directory entry from being a plain file or directory; None where nothing does.

    Args:
        found: What `lstat` says of it.
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
    """Opens a plain file, and returns its descriptor; waits for nobody.

    Args:
        path: The file.
        flags: As of `os.open`; a file that is made has the mode 0666 less the umask.
        levels: How many of the path's last parts must not be links; the ones before are the user's.

    Raises:
        UnsafeFileError: It is a link, a FIFO, a device, or has a second name.
        IsADirectoryError: It is a directory.
        OSError: It can't be opened, as of `os.open`.
    """
    path = Path(path)
    truncate = flags & os.O_TRUNC  # only once it is known what it is
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
    """Opens `parts` below `root`, each relative to the one before."""
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
    """`open_regular`, as the `opener` of `open`."""
    return open_regular(path, flags)


def read(path: Path, max_bytes: int, *, levels: int = 1) -> bytes:
    """The content of a plain file.

    Args:
        path: The file.
        max_bytes: A larger file is refused, before it is read.
        levels: See `open_regular`.

    Raises:
        OSError: It can't be read, or is no plain file; EFBIG where it is too large.
    """
    with os.fdopen(open_regular(path, levels=levels), "rb") as file:
        return _content(file, path, max_bytes)


def open_named(path: str | Path, *, pipe: bool = False) -> BufferedReader:
    """Opens a file that the user has named, also through links, for reading; waits for nobody.

    Args:
        path: The file.
        pipe: Whether it may be a pipe of this process's own, as `<(...)` of a shell gives one.

    Raises:
        UnsafeFileError: It is a FIFO, a socket or a device.
        IsADirectoryError: It is a directory.
        OSError: It can't be opened.
    """
    _refuse_special(Path(path).stat(), path, pipe)  # to open a device may do something
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _refuse_special(os.fstat(descriptor), path, pipe)
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_named(path: str | Path, max_bytes: int | None = None, *, pipe: bool = False) -> bytes:
    """The content of a file that the user has named; see `open_named`.

    Args:
        path: The file.
        max_bytes: A larger file is refused, before it is read, and a pipe is read so far; None
            reads any.
        pipe: See `open_named`.

    Raises:
        OSError: As of `open_named`; EFBIG where it is too large, ENOMEM where memory is too small.
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
        # As many bytes as it is told to read, Python allocates.
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
    """Replaces a file by a new content, so that a reader sees the old or the new one."""
    clear_leftovers(path.parent, path.name)
    part = path.with_name(temporary_name(path.name))
    try:
        with open(part, "xb", opener=regular) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # it is no leftover while this process lives
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
        sync(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def temporary_name(name: str) -> str:
    """A name that nobody can predict, for what is to be renamed to `name`."""
    return f".{name[:LONGEST_KEPT_NAME]}.{secrets.token_hex(8)}.part"


def is_temporary(name: str) -> bool:
    """Whether a name is one of `temporary_name`."""
    return _LEFTOVER.fullmatch(name) is not None


def clear_leftovers(directory: Path, name: str | None = None) -> None:
    """Removes the temporary files that killed processes have left; not those being written.

    Args:
        directory: Where; what is below it is left alone.
        name: Only temporary files of this one; of all if not given.
    """
    kept = None if name is None else name[:LONGEST_KEPT_NAME]
    with os.scandir(directory) as entries:
        for entry in entries:
            found = _LEFTOVER.fullmatch(entry.name)
            if found is None or kept not in (None, found["name"]):
                continue
            if not entry.is_file(follow_symlinks=False):
                continue
            with suppress(FileNotFoundError, UnsafeFileError):
                descriptor = open_regular(entry.path)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    Path(entry.path).unlink()
                except BlockingIOError:
                    pass  # its process lives
                finally:
                    os.close(descriptor)


def make_directory(path: Path) -> None:
    """Makes a directory and those above it, so that they survive a power cut."""
    if path.exists() or path == path.parent:
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def write(path: Path, content: bytes) -> None:
    """Writes a new file; its content is on the disk, its name only after `sync` of its folder."""
    with open(path, "xb", opener=regular) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(directory: Path) -> None:
    """Flushes a directory's entries, so that a rename survives a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes a directory with all that is in it, or a file, if it is there; follows no link."""
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
