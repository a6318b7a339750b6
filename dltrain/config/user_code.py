"""The files of the user's own components, as they were loaded, and whether they are the same."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from dltrain.checkpoints.atomic_files import open_named
from dltrain.core.errors import relative_name, shorten

_LOADED: dict[str, dict[str, str]] = {}
"""By plug-in file: SHA-256 of it, and of the files beside it that it has imported."""


def remember(plugin: Path, content: bytes, imported: Iterable[ModuleType]) -> None:
    """Keeps what a plug-in was when it was loaded.

    Args:
        plugin: Its file, absolute.
        content: The file's bytes, which were executed.
        imported: Modules that it was the first to import; those in its folder are its own.
    """
    found = {str(plugin): hashlib.sha256(content).hexdigest()}
    for module in imported:
        file = _file_of(module)
        if file is not None and file.is_relative_to(plugin.parent) and not _is_installed(file):
            found |= _hashed(file)
    _LOADED[str(plugin)] = found


def code_of(builders: Iterable[Callable[..., Any]], plugins: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of the files that builders and plug-ins are made of; of packages, the version.

    Args:
        builders: Of components; those of dltrain are left out.
        plugins: Plug-in files, loaded or not.

    Returns:
        By absolute path, or by `package NAME`.
    """
    found: dict[str, str] = {}
    for plugin in plugins:
        file = plugin.resolve()
        found |= _LOADED.get(str(file)) or _hashed(file)
    for builder in builders:
        name = getattr(builder, "__module__", None) or ""
        top, module = name.partition(".")[0], sys.modules.get(name)
        file = None if module is None else _file_of(module)
        if file is None or top == "dltrain":
            continue
        if _is_installed(file):
            with suppress(metadata.PackageNotFoundError):
                found[f"package {top}"] = metadata.version(top)
        else:
            found |= _LOADED.get(str(file)) or _hashed(file)
    return found


def is_loaded(plugin: Path) -> bool:
    """Whether this process has loaded a plug-in file."""
    return str(plugin.resolve()) in _LOADED


def loaded_plugins() -> list[Path]:
    """The plug-in files that this process has loaded."""
    return [Path(plugin) for plugin in _LOADED]


def code_changes(before: Sequence[Mapping[str, str]], now: Mapping[str, str]) -> list[str]:
    """How the user's code differs from what a run was trained with, a line each.

    Nothing is opened but what this process has imported: a record may name any file.

    Args:
        before: What `code_of` gave when the training was started, or resumed with other code.
        now: What it gives now.
    """
    every = {**{path: sha for files in _LOADED.values() for path, sha in files.items()}, **now}
    missing = {path for code in before for path in code} - every.keys()
    for module in list(sys.modules.values()) if missing else ():  # there are some thousand
        file = _file_of(module)
        if file is not None and str(file) in missing:
            every |= _hashed(file)
    lines = []
    for name, recorded in dict.fromkeys(pair for code in before for pair in code.items()):
        if name.startswith("package "):
            if (version := every.get(name)) != recorded:
                lines.append(
                    f"{shorten(name)} was {shorten(recorded)} and is {version or 'not used'}"
                )
            continue
        moved = [path for path in every if every[path] == recorded]
        alike = [path for path in every if Path(path).name == Path(name).name]
        place = name if name in every else next(iter([*moved, *alike]), None)
        if place is None:
            lines.append(f"{relative_name(name)} was loaded in training, and is not now (--plugin)")
        elif every[place] != recorded:
            lines.append(
                f"{relative_name(place)} is not the code of the training: its SHA-256 is "
                f"{every[place][:12]}... and was {shorten(recorded[:12])}..."
            )
        elif _hashed(Path(place)).get(place, recorded) != recorded:
            lines.append(f"{relative_name(place)} was changed after this process had loaded it")
    return lines


def _file_of(module: ModuleType) -> Path | None:
    """Its source; None where it has none, as a notebook's cells."""
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file and str(file).endswith(".py") else None


def _is_installed(file: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(file.parts))


def _hashed(file: Path) -> dict[str, str]:
    """By its path; empty where it can't be read."""
    try:
        with open_named(file) as opened:
            return {str(file): hashlib.file_digest(opened, "sha256").hexdigest()}
    except OSError:
        return {}


def definition_of(builder: Callable[..., Any]) -> str:
    """Return where a function or a class is defined, as `FILE:LINE`, or else its name."""
    builder = inspect.unwrap(builder)
    while isinstance(builder, partial):
        builder = builder.func
    with suppress(TypeError, OSError):
        file = inspect.getsourcefile(builder)
        _, line = inspect.getsourcelines(builder)
        if file is not None:
            return f"{relative_name(file)}:{line}"
    return getattr(builder, "__qualname__", repr(builder))
