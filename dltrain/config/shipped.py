"""Configs that come with dltrain, and the resolution of a config's name to a file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from dltrain.config.problems import did_you_mean

_PACKAGE = Path(__file__).parent.parent
_SUFFIXES = (".yaml", ".yml")


def shipped_configs() -> dict[str, Path]:
    """Return the configs that come with dltrain: their files, by names such as `mnist_cnn`.

    In an installed package they are inside it. In a clone, also one that was installed with
    `pip install -e`, they are beside it.
    """
    installed = _PACKAGE / "configs"
    folder = installed if installed.is_dir() else _PACKAGE.parent / "configs"
    files = sorted(folder.rglob("*.yaml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def example_names() -> list[str]:
    """Return the names of the shipped configs except sweeps and tiny configs."""
    return [name for name in shipped_configs() if "/" not in name]


def find_config(name: str | Path, folder: Path | None = None) -> Path:
    """Return the file of a name: the file itself, else NAME.yaml, else a shipped config.

    Any other name is returned unchanged.

    Args:
        name: A path, with or without `.yaml`, or the name of a shipped config.
        folder: Folder that a relative path starts from (default: the working directory).
    """
    path = Path(name) if folder is None else folder / name
    with suppress(OSError):  # the name is too long, which reading the file reports
        if path.suffix in _SUFFIXES or (os.path.lexists(path) and not path.is_dir()):
            return path
        beside = path.with_name(f"{path.name}.yaml") if path.name else path
        if beside.is_file():
            return beside
    shipped, here = shipped_configs().get(Path(name).as_posix(), path), Path.cwd()
    return shipped.relative_to(here) if shipped.is_relative_to(here) else shipped


def unreadable(name: str | Path, error: OSError) -> str:
    """Describe why a config can't be read, with the shipped config that may have been meant."""
    message = f"can't read {name}: {error.strerror}"
    if not isinstance(error, FileNotFoundError):
        return message
    path = Path(name)
    word = path.with_suffix("") if path.suffix in _SUFFIXES else path
    hint = did_you_mean(word.as_posix().removeprefix("configs/"), shipped_configs())
    if path.suffix in _SUFFIXES or len(path.parts) > 1:
        return message + hint
    names = ", ".join(example_names())
    return f"{message}{hint or '.'} Expected a file or a config that comes with dltrain: {names}"
