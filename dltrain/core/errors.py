"""Errors that a user can cause and correct; other errors are bugs and show a traceback."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path


class DltrainError(Exception):
    """Base class of errors that the command line prints without a traceback.

    Attributes:
        exit_code: Exit code of the process: 1 if a run failed, 2 if the command or config is wrong.
    """

    exit_code = 1


class DataError(DltrainError):
    """Data is missing, damaged, or differs from the config; the message names the file."""


class RunError(DltrainError):
    """A run can't start, continue or be read; the message gives the reason and the next step."""


class UsageError(DltrainError):
    """The command line or the config is invalid."""

    exit_code = 2


class OptionError(UsageError):
    """A component's option has a value that does not fit the data.

    Args:
        option: Name of the option.
        message: Value received, and values accepted.
    """

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


def shorten(text: str, longest: int = 100) -> str:
    """Return text from a file for a message: on one line, and truncated if it is long."""
    if not text.isprintable():
        text = repr(text)[1:-1]
    return text if len(text) <= longest else f"{text[:longest]}..."


_STEERING = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""C0 and C1 controls, line separators, marks and overrides of the writing direction, surrogates."""


def escape_control_characters(text: str) -> str:
    """Return text with escaped control characters, except tabs and \\n; safe on terminals."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def print_warning(text: object) -> None:
    """Print a line on standard error; see `escape_control_characters`."""
    print(escape_control_characters(str(text)), file=sys.stderr)


class InterruptedRunError(DltrainError):
    """A signal interrupted the run; a checkpoint has been saved.

    Args:
        signal_number: 2 for SIGINT, 15 for SIGTERM; the exit code is 128 more.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.exit_code: int = 128 + signal_number


class PrunedError(DltrainError):
    """Raised by a logger to end the run with status `pruned`."""


_INSTALLED = ("site-packages", "dist-packages")

PLUGIN_PACKAGES: set[str] = set()
"""Top-level names of installed packages with components; `config.plugins` adds them."""


def describe_error(error: BaseException) -> str:
    """Describe an error of torch or of a user's component, with the user's line that led to it.

    Returns:
        `FILE:LINE: TYPE: MESSAGE`. The place is left out where no code of the user's was involved,
        and the type where it is RuntimeError, which torch uses for nearly everything.
    """
    text = str(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}"
    line = user_code_line(error)
    return text if line is None else f"{line}: {text}"


def user_code_line(error: BaseException) -> str | None:
    """Return the last line of the user's own code on an error's traceback, as `FILE:LINE`.

    Code is the user's unless it belongs to dltrain, to Python or to an installed package that
    offers no components. None where there is no such line.
    """
    import sysconfig
    import traceback

    package, stdlib = Path(__file__).parents[1], sysconfig.get_path("stdlib")
    library = (f"{package}{os.sep}", f"{stdlib}{os.sep}", "<")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        parts = Path(frame.filename).parts
        places = [n for n, part in enumerate(parts, 1) if part in _INSTALLED]
        if places:
            if Path(parts[places[-1]]).stem in PLUGIN_PACKAGES:
                return f"{relative_name(frame.filename)}:{frame.lineno}"
        elif not frame.filename.startswith(library):
            return f"{relative_name(frame.filename)}:{frame.lineno}"
    return None


def relative_name(path: str) -> str:
    """Return a file's name from the working directory, or whole where it lies elsewhere."""
    with suppress(ValueError, OSError):
        path = str(Path(path).relative_to(Path.cwd()))
    return shorten(path, 300)
