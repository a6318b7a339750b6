"""Text files in UTF-8."""

from __future__ import annotations

from pathlib import Path

from dltrain.checkpoints.atomic_files import read_named
from dltrain.core.errors import DataError


def read_utf8(path: Path, *, pipe: bool = False) -> str:
    """Read a whole file with its line ends, without a byte order mark.

    Args:
        path: The file.
        pipe: See `atomic_files.open_named`.

    Raises:
        DataError: The file can't be read, or is not UTF-8; with the line number.
    """
    try:
        content = read_named(path, pipe=pipe)
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    return decode_utf8(content, str(path))


def decode_utf8(content: bytes, name: str) -> str:
    """Decode UTF-8; see `read_utf8`.

    Args:
        content: Encoded text.
        name: Name of its source in error messages.

    Raises:
        DataError: The content is not UTF-8.
    """
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}:{line}: is not UTF-8: {error.reason} at byte {error.start}"
        ) from error


def normalize_line_ends(text: str) -> str:
    """Replace each carriage return with line feed by a line feed.

    Other characters do not end a line: line and page separators, and a lone carriage return.
    """
    return text.replace("\r\n", "\n")


def split_lines(text: str) -> list[str]:
    """Return the lines of a text without their ends, which the last one need not have."""
    lines = normalize_line_ends(text).split("\n")
    return lines if lines[-1] else lines[:-1]


def read_lines(path: Path) -> list[str]:
    """Return a file's lines without their ends; see `normalize_line_ends`.

    Raises:
        DataError: The file can't be read, is not UTF-8, or is empty.
    """
    lines = normalize_line_ends(read_utf8(path)).rstrip("\n").split("\n")
    if lines == [""]:
        raise DataError(f"{path}: has no lines")
    return lines
