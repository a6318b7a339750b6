"""Files that a run has read, `inputs.json`: written during training, compared on reproduction."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from dltrain.checkpoints.atomic_files import open_named, write_atomically
from dltrain.checkpoints.background import BackgroundWriter
from dltrain.checkpoints.untrusted_files import FILES
from dltrain.checkpoints.untrusted_json import read_json, typed_dict_of
from dltrain.core.errors import RunError, shorten

NAME = "inputs.json"
MOST_HASHED_BYTES = 256 * 2**20
"""Total size above which files are compared by size and time of modification, not by hash."""
MOST_FILES = 100_000
"""Number of files above which none is listed."""
CHUNK_BYTES = 1 << 20
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class InputFile:
    """A file that a run read.

    Attributes:
        path: Absolute path.
        bytes: Size; None if the file was removed before it was recorded.
        modified: Time of the last modification, in ISO 8601, UTC.
        sha256: Hash of the content; None where the inputs are large.
    """

    path: str
    bytes: int | None
    modified: str | None
    sha256: str | None

    def change(self, path: Path) -> str | None:
        """Return how a file differs from the recorded one; None if no difference is known.

        Raises:
            OSError: The file can't be read.
        """
        if self.bytes is None:
            return None
        now = path.stat()
        if now.st_size != self.bytes:
            return f"{path}: has {now.st_size:,} bytes and had {self.bytes:,}"
        if self.sha256 is None:
            if (modified := _time(now)) == self.modified:
                return None
            return (
                f"{path}: was changed at {modified}, and was of {self.modified}; inputs above "
                f"{MOST_HASHED_BYTES // 2**20} MB are known by size and time alone"
            )
        now_sha256 = _sha256(path)
        if now_sha256 == self.sha256:
            return None
        return f"{path}: its SHA-256 is {now_sha256[:12]}... and was {self.sha256[:12]}..."


@dataclass(frozen=True)
class InputFiles:
    """All files that a run has read; the content of `inputs.json`.

    Attributes:
        data: Files of the data.
        plugins: Files of the user's own components.
        note: Says why there are no hashes, or no files of data; None otherwise.
    """

    data: list[InputFile]
    plugins: list[InputFile]
    note: str | None


_FILES = list[typed_dict_of(InputFile)]
_FILE = typed_dict_of(InputFiles, data=_FILES, plugins=_FILES)
"""The types of `inputs.json`."""


@dataclass(frozen=True)
class Changes:
    """Differences between recorded and current files, one line per file.

    Attributes:
        changed: Files read then and now, with different content.
        others: Files read either then or now.
    """

    changed: list[str]
    others: list[str]


@contextmanager
def recorded(
    directory: Path, data: Sequence[Path], plugins: Sequence[Path], started: Callable[[], bool]
) -> Iterator[None]:
    """Write `inputs.json` while a run trains in this context, unless the file exists.

    A thread writes it after the first step. If the training ends earlier than the thread, the
    context waits for it; if the training fails, there may be no such file.

    Args:
        directory: The run directory.
        data: Files of the data.
        plugins: Files of the user's own components.
        started: Whether a step has been taken.
    """
    if (directory / NAME).exists():
        yield
        return
    ended, cancelled = Event(), Event()

    def work() -> None:
        while not started() and not ended.wait(POLL_SECONDS):
            pass
        files = _input_files(data, plugins, cancelled)
        if not cancelled.is_set():
            write_atomically(directory / NAME, json.dumps(asdict(files), indent=1).encode())

    background = BackgroundWriter()
    background.submit(work)
    try:
        yield
    except BaseException:
        cancelled.set()
        raise
    finally:
        ended.set()
        background.drain()
    background.check()


def read(directory: Path) -> InputFiles | None:
    """Return what a run has recorded; None without a record, as in runs of earlier versions.

    Raises:
        RunError: The file can't be read, or a path in it is not absolute.
    """
    try:
        content = read_json(directory / NAME, _FILE, FILES[NAME])
    except FileNotFoundError:
        return None
    data, plugins = ([InputFile(**file) for file in content[key]] for key in ("data", "plugins"))
    for file in (*data, *plugins):
        if not Path(file.path).is_absolute():
            message = f"damaged: {shorten(file.path)!r} is not an absolute path"
            raise RunError(f"{directory / NAME}: {message}")
    return InputFiles(data, plugins, content["note"])


def changes(before: Sequence[InputFile], now: Sequence[Path]) -> Changes:
    """Compare each recorded file with the file that is read now.

    Files are matched by their paths. Those that lie in another folder than before are matched by
    their paths relative to the folder that holds all of them.

    Raises:
        RunError: A file can't be read.
    """
    rest = {str(path.absolute()): path for path in now}
    pairs = [(file, rest.pop(file.path)) for file in before if file.path in rest]
    matched = {file.path for file, _ in pairs}
    missing = [file for file in before if file.path not in matched]
    moved = dict(zip(_relative(list(rest)), rest.values(), strict=True))
    names = _relative([file.path for file in missing])
    pairs += [(f, moved.pop(name)) for f, name in zip(missing, names, strict=True) if name in moved]
    matched = {file.path for file, _ in pairs}
    unmatched = [file.path for file in before if file.path not in matched]
    others = [f"{path}: was read, and is not now" for path in unmatched]
    others += [f"{path}: is read, and was not before" for path in moved.values()]
    try:
        changed = [file.change(path) for file, path in pairs]
    except OSError as error:
        raise RunError(f"{error.filename}: can't be read: {error.strerror}") from error
    return Changes([line for line in changed if line is not None], others)


def _relative(paths: Sequence[str]) -> list[str]:
    """Return paths relative to the folder that holds all of them."""
    if not paths:
        return []
    folder = os.path.commonpath([Path(path).parent for path in paths])
    return [os.path.relpath(path, folder) for path in paths]


def _input_files(data: Sequence[Path], plugins: Sequence[Path], cancelled: Event) -> InputFiles:
    if len(data) > MOST_FILES:
        note = f"{len(data):,} files of data, too many to be listed"
        return InputFiles([], _entries(plugins, True, cancelled), note)
    total = sum(entry.bytes or 0 for entry in _entries(data, False, cancelled))
    hashed = total <= MOST_HASHED_BYTES
    note = f"{total / 2**20:,.0f} MB of data: known by size and time of change, not by SHA-256"
    return InputFiles(
        _entries(data, hashed, cancelled),
        _entries(plugins, True, cancelled),
        None if hashed else note,
    )


def _entries(paths: Sequence[Path], hashed: bool, cancelled: Event) -> list[InputFile]:
    return [_entry(path.absolute(), hashed, cancelled) for path in paths if not cancelled.is_set()]


def _entry(path: Path, hashed: bool, cancelled: Event) -> InputFile:
    try:
        status = path.stat()
        sha256 = _sha256(path, cancelled) if hashed else None
        return InputFile(str(path), status.st_size, _time(status), sha256)
    except OSError:  # the run has read the file already, and needs no more of it
        return InputFile(str(path), None, None, None)


def _time(status: os.stat_result) -> str:
    return datetime.fromtimestamp(status.st_mtime, UTC).isoformat()


def _sha256(path: Path, cancelled: Event | None = None) -> str:
    """Hash a regular file, reached through links or not; a record can name any kind of file."""
    digest = hashlib.sha256()
    with open_named(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            if cancelled is not None and cancelled.is_set():
                break
    return digest.hexdigest()
