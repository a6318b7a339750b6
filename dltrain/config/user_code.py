"""Record the files of the user's own components as they were loaded, and detect changes."""

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
"""SHA-256 by path of each plug-in file and of the files in its folder that it imported."""


def remember(plugin: Path, content: bytes, imported: Iterable[ModuleType]) -> None:
    """Record the content of a plug-in when it is loaded.

    Args:
        plugin: Absolute path of the file.
        content: Content of the file that was executed.
        imported: Modules that it imported first; those in its folder belong to it.
    """
    found = {str(plugin): hashlib.sha256(content).hexdigest()}
    for module in imported:
        file = _file_of(module)
        if file is not None and file.is_relative_to(plugin.parent) and not _is_installed(file):
            found |= _hashed(file)
    _LOADED[str(plugin)] = found


def code_of(builders: Iterable[Callable[..., Any]], plugins: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of the files of builders and plug-ins, and the versions of packages.

    Args:
        builders: Builders of components; those of dltrain are ignored.
        plugins: Plug-in files, loaded or not.

    Returns:
        SHA-256 by absolute path, and versions by `package NAME`.
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
    """Return whether this process has loaded a plug-in file."""
    return str(plugin.resolve()) in _LOADED


def loaded_plugins() -> list[Path]:
    """Return the plug-in files that this process has loaded."""
    return [Path(plugin) for plugin in _LOADED]


def code_changes(before: Sequence[Mapping[str, str]], now: Mapping[str, str]) -> list[str]:
    """Describe how the user's code differs from that of a run, one line per change.

    Only files that this process has imported are opened, since a record may name any file.

    Args:
        before: Results of `code_of` when the run was started, and when it was resumed with
            different code.
        now: Current result of `code_of`.
    """
    known = {**{path: sha for files in _LOADED.values() for path, sha in files.items()}, **now}
    missing = {path for code in before for path in code} - known.keys()
    for module in list(sys.modules.values()) if missing else ():  # there can be thousands
        file = _file_of(module)
        if file is not None and str(file) in missing:
            known |= _hashed(file)
    lines = []
    for name, recorded in dict.fromkeys(pair for code in before for pair in code.items()):
        if name.startswith("package "):
            if (version := known.get(name)) != recorded:
                lines.append(
                    f"{shorten(name)} was {shorten(recorded)} and is {version or 'not used'}"
                )
            continue
        moved = [path for path in known if known[path] == recorded]
        namesakes = [path for path in known if Path(path).name == Path(name).name]
        path = name if name in known else next(iter([*moved, *namesakes]), None)
        if path is None:
            lines.append(f"{relative_name(name)} was loaded in training but not now (see --plugin)")
        elif known[path] != recorded:
            lines.append(
                f"{relative_name(path)} is not the code of the training: its SHA-256 is "
                f"{known[path][:12]}... and was {shorten(recorded[:12])}..."
            )
        elif _hashed(Path(path)).get(path, recorded) != recorded:
            lines.append(f"{relative_name(path)} has changed since this process loaded it")
    return lines


def _file_of(module: ModuleType) -> Path | None:
    """Return the source file of a module; None for one without, such as a notebook's cells."""
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file and str(file).endswith(".py") else None


def _is_installed(file: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(file.parts))


def _hashed(file: Path) -> dict[str, str]:
    """Return the SHA-256 of a file by its path; empty if the file can't be read."""
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
