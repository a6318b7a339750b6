"""Text files in UTF-8."""

from __future__ import annotations

from pathlib import Path

from dltrain.checkpoints.atomic_files import read_named
from dltrain.core.errors import DataError


def read_utf8(path: Path, *, pipe: bool = False) -> str:
    """A whole file, its line ends as they are, without the mark that some editors put in front.

    Args:
        path: The file.
        pipe: See `files.open_named`.

    Raises:
        DataError: It can't be read, or is not UTF-8; with the number of the line.
    """
    try:
        content = read_named(path, pipe=pipe)
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    return decode_utf8(content, str(path))


def decode_utf8(content: bytes, name: str) -> str:
    """UTF-8 as text; see `read_utf8`.

    Args:
        content: Bytes.
        name: Where they came from, for errors.

    Raises:
        DataError: It is not UTF-8.
    """
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}:{line}: is not UTF-8: {error.reason} at byte {error.start}"
        ) from error


def normalize_line_ends(text: str) -> str:
    """The text with a line feed for a carriage return and line feed.

    Nothing else ends a line: separators of lines and pages, and a lone carriage return, are text.
    """
    return text.replace("\r\n", "\n")


def split_lines(text: str) -> list[str]:
    """The lines of a text, without their ends; see `one_line_end`. The last need not have one."""
    lines = normalize_line_ends(text).split("\n")
    return lines if lines[-1] else lines[:-1]


def read_lines(path: Path) -> list[str]:
    """Return a file's lines without their ends; see `one_line_end`.

    Raises:
        DataError: The file can't be read, is not UTF-8, or is empty.
    """
    lines = normalize_line_ends(read_utf8(path)).rstrip("\n").split("\n")
    if lines == [""]:
        raise DataError(f"{path}: has no lines")
    return lines
