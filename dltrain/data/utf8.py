"""Text files in UTF-8."""

from __future__ import annotations

from pathlib import Path

from dltrain.errors import DataError


def read_utf8(path: Path) -> str:
    """A whole file, its line ends as they are, without the mark that some editors put in front.

    Raises:
        DataError: It can't be read, or is not UTF-8; with the number of the line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: is not UTF-8: {error.reason} at byte {error.start}"
        ) from error


def one_line_end(text: str) -> str:
    """The text with a line feed for each end of a line, whatever system it came from."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
