"""Paths in configs, and directory names for experiments."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

MAX_NAME_BYTES = 100
_VARIABLE = re.compile(r"\$\{([^}]*)\}?")


def data_folder(recorded: str | None = None) -> Path:
    """Return the common data folder: `$DLTRAIN_DATA`, or `data` in the working directory.

    Args:
        recorded: The folder that a run has recorded; it takes precedence if it exists.
    """
    if recorded is not None and Path(recorded).is_dir():
        return Path(recorded)
    return Path(os.environ.get("DLTRAIN_DATA") or "data").expanduser().absolute()


def resolve_path(path: str | Path, folder: Path) -> Path:
    """Return a path that exists in the working directory or, failing that, in the data folder.

    A path that exists in neither is resolved in the working directory. Paths below the working
    directory are returned relative to it, so that messages are short.
    """
    path, here = Path(path), Path.cwd()
    if not os.path.lexists(path) and os.path.lexists(folder / path):
        path = folder / path
    return path.relative_to(here) if path.is_relative_to(here) else path


def relocate(value: Any, directory: str | None) -> Any:
    """Return the new location of a path after its working directory has moved.

    Other values are returned unchanged.

    Args:
        value: Value of an option.
        directory: The working directory that a run has recorded.
    """
    if directory is None or not isinstance(value, str) or os.path.lexists(value):
        return value
    path = Path(value)
    if not path.is_absolute() or not path.is_relative_to(directory):
        return value
    now = resolve_path(path.relative_to(directory), data_folder()).absolute()
    return str(now) if now.exists() else value


def expand_path(text: str) -> str:
    """Replace `${VAR}` by environment variables and a leading `~` by a home directory.

    Raises:
        ValueError: A variable is not set, the user does not exist, or the name is invalid.
    """
    if not text or "\0" in text:
        raise ValueError(f"expected a path, got {text!r}")
    path = _VARIABLE.sub(_value, text)
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        message = f"there is no home directory {path.partition('/')[0]!r}"
        raise ValueError(f"{message}; for a file of that name, write './{path}'") from None


def _value(match: re.Match[str]) -> str:
    if not match[0].endswith("}") or not re.fullmatch(r"[A-Za-z_]\w*", match[1]):
        raise ValueError(f"expected an environment variable as ${{NAME}}, got {match[0]!r}")
    value = os.environ.get(match[1])
    if not value:
        state = "not set" if value is None else "empty"
        raise ValueError(f"the environment variable {match[1]} is {state}; set it to a path")
    return value


def _validated(text: str) -> str:
    return str(resolve_path(expand_path(text), data_folder()).absolute())


RESOLVED_PATH = AfterValidator(_validated)
"""Marks an option as a path, which is made absolute when a config is read."""

ConfigPath = Annotated[str, Field(description="a path"), RESOLVED_PATH]
"""A path in a config.

`~` and `${VAR}` are expanded. A relative path is resolved in the working directory, or else in the
common data folder, and stored as an absolute path, so that a run finds its files from anywhere.
"""


def as_paths(given: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return one path, or several, as a list."""
    return [Path(path) for path in ([given] if isinstance(given, str | Path) else given)]


def to_directory_name(name: str) -> str:
    """Return a valid directory name: letters and digits of any script, `_`, `-` and `.`.

    Other characters become `_`. The result has 1 to `MAX_NAME_BYTES` bytes in UTF-8 and does not
    begin with a dot or a hyphen.
    """
    kept = (
        c if c.isalnum() or c in "_-." or unicodedata.category(c)[0] == "M" else "\0"
        for c in unicodedata.normalize("NFC", name)
    )
    text = re.sub("\0+", "\0", "".join(kept)).strip("\0-.")
    cut = text.encode("utf-8", "ignore")[:MAX_NAME_BYTES].decode("utf-8", "ignore")
    return cut.rstrip("\0-.").replace("\0", "_") or "experiment"
