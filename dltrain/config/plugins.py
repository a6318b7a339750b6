"""Import code that registers components: of dltrain, of installed packages, of user files."""

from __future__ import annotations

import sys
import traceback
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType

from dltrain.checkpoints.atomic_files import read_named
from dltrain.config.user_code import remember
from dltrain.core.errors import PLUGIN_PACKAGES, UsageError

BUILTINS = ("models", "data", "losses", "optim", "metrics", "tasks")
ENTRY_POINT_GROUP = "dltrain.plugins"


def register_builtins() -> None:
    """Import the modules that register the components of dltrain."""
    for module in BUILTINS:
        import_module(f"dltrain.{module}")


@cache
def load_entry_points() -> None:
    """Import the entry points `dltrain.plugins` of installed packages.

    Raises:
        UsageError: An import fails; the message names the package.
    """
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        PLUGIN_PACKAGES.add(entry_point.module.partition(".")[0])
        try:
            entry_point.load()
        except Exception as error:  # a package may raise any exception
            package = entry_point.dist.name if entry_point.dist else entry_point.value
            message = f"plugin {entry_point.name!r} of package {package}: {_summarize(error)}"
            raise UsageError(message) from error


class _SourceLoader(SourceFileLoader):
    """Always compiles the source: a bytecode cache misses changes within the same second."""

    def get_code(self, fullname: str) -> CodeType:
        """See `importlib.abc.InspectLoader`."""
        return self.source_to_code(self.get_data(self.path), self.path)


def load_plugin(path: str | Path) -> None:
    """Import a user's Python file, unless it has been imported already.

    Raises:
        UsageError: The file does not exist or its import fails; the message names the line.
    """
    register_builtins()  # first, so that a duplicate name is an error in the plug-in
    file = Path(path).resolve()
    name = f"dltrain_plugin_{sha256(str(file).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return
    try:
        content, before = read_named(file), set(sys.modules)
    except FileNotFoundError as error:
        raise UsageError(f"plugin {path}: no such file") from error
    except OSError as error:
        raise UsageError(f"plugin {path}: can't be read: {error.strerror}") from error
    spec = spec_from_loader(name, _SourceLoader(name, str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # before its code runs, as the import statement does
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # user code may raise any exception
        del sys.modules[name]
        line = _line_in(file, error)
        raise UsageError(
            f"plugin {path}{f':{line}' if line else ''}: {_summarize(error)}"
        ) from error
    remember(file, content, [sys.modules[name] for name in sys.modules.keys() - before])


def _line_in(file: Path, error: Exception) -> int | None:
    """Return the innermost line of the file in the traceback; None if the file is not in it."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return error.lineno
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    return lines[-1] if lines else None


def _summarize(error: Exception) -> str:
    """Return the type and the first line of an error."""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {message.partition(chr(10))[0]}"
