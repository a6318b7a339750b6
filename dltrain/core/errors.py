"""The errors that a user can cause and can mend; everything else is a bug and shows a traceback."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path


class DltrainError(Exception):
    """Base of the errors that the command line prints in a line or two, without a traceback.

    Attributes:
        exit_code: The process's: 1, the run failed; 2, the command or the config is wrong.
    """

    exit_code = 1


class DataError(DltrainError):
    """Data is missing, damaged or not what the config says it is; the message names the file."""


class RunError(DltrainError):
    """A run can't start, go on or be read; the message says why and what to do."""


class UsageError(DltrainError):
    """The command line or the config asks for something that can't be done."""

    exit_code = 2


class OptionError(UsageError):
    """A component's option has a value that does not fit the data.

    Args:
        option: Its name.
        message: What was given, and what would fit.
    """

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


def shorten(text: str, longest: int = 100) -> str:
    """A file's own words for a message: on one line, and cut where they are long."""
    if not text.isprintable():
        text = repr(text)[1:-1]
    return text if len(text) <= longest else f"{text[:longest]}..."


_STEERING = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""C0 and C1 controls, line separators, marks and overrides of the writing direction, surrogates."""


def escape_control_characters(text: str) -> str:
    """Text that can't steer a terminal: control characters are escaped, but for tabs and \\n."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def print_warning(text: object) -> None:
    """Prints a line on standard error, as `visible`."""
    print(escape_control_characters(str(text)), file=sys.stderr)


class InterruptedRunError(DltrainError):
    """A signal asked the run to stop; a checkpoint has been saved.

    Args:
        signal_number: 2 for SIGINT, 15 for SIGTERM; the exit code is 128 more.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.exit_code: int = 128 + signal_number


class PrunedError(DltrainError):
    """A recorder has seen enough: the run ends here, as pruned."""


_INSTALLED = ("site-packages", "dist-packages")

PLUGIN_PACKAGES: set[str] = set()
"""Top-level names of the installed packages that offer components; `plugins` adds them."""


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
