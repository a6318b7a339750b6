"""Which files a run read, `inputs.json`: written while it trains, compared when it is rerun."""

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
from dltrain.checkpoints.untrusted_files import FILES, read_json, typed_dict_of
from dltrain.core.errors import RunError, shorten

NAME = "inputs.json"
MOST_HASHED_BYTES = 256 * 2**20
"""Inputs that are larger together are known by size and time of change."""
MOST_FILES = 100_000
"""Where there are more, none is listed."""
CHUNK_BYTES = 1 << 20
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class InputFile:
    """A file that a run read.

    Attributes:
        path: Absolute.
        bytes: Its size; None where it was gone before it could be looked at.
        modified: When it was last changed, in ISO 8601, UTC.
        sha256: Of its content; None where the inputs are large.
    """

    path: str
    bytes: int | None
    modified: str | None
    sha256: str | None

    def change(self, path: Path) -> str | None:
        """In what a file now is another than this one; None where nothing shows.

        Raises:
            OSError: It can't be read.
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
    """What a run read; `inputs.json`.

    Attributes:
        data: The data's files.
        plugins: The files of the user's own components.
        note: What is not as it usually is: that there are no hashes, or no files.
    """

    data: list[InputFile]
    plugins: list[InputFile]
    note: str | None


_FILES = list[typed_dict_of(InputFile)]
_FILE = typed_dict_of(InputFiles, data=_FILES, plugins=_FILES)
"""The types of `inputs.json`."""


@dataclass(frozen=True)
class Changes:
    """How files differ from what was recorded, a line each.

    Attributes:
        changed: Read then and now, and not the same.
        others: Read then or now, but not both.
    """

    changed: list[str]
    others: list[str]


@contextmanager
def recorded(
    directory: Path, data: Sequence[Path], plugins: Sequence[Path], begun: Callable[[], bool]
) -> Iterator[None]:
    """Writes `inputs.json` while a run trains in this context, unless it is there already.

    A thread does it, which begins when the first step has been taken. Where the training ends
    before, the context waits; where it fails, there may be no such file.

    Args:
        directory: The run's.
        data: The data's files.
        plugins: The files of the user's own components.
        begun: Whether a step has been taken.
    """
    if (directory / NAME).exists():
        yield
        return
    ended, given_up = Event(), Event()

    def work() -> None:
        while not begun() and not ended.wait(POLL_SECONDS):
            pass
        found = _look(data, plugins, given_up)
        if not given_up.is_set():
            write_atomically(directory / NAME, json.dumps(asdict(found), indent=1).encode())

    background = BackgroundWriter()
    background.submit(work)
    try:
        yield
    except BaseException:
        given_up.set()
        raise
    finally:
        ended.set()
        background.drain()
    background.check()


def read(directory: Path) -> InputFiles | None:
    """What a run has recorded; None where it has not, as those of earlier versions.

    Raises:
        RunError: The file can't be read, or a path in it is not absolute.
    """
    try:
        found = read_json(directory / NAME, _FILE, FILES[NAME])
    except FileNotFoundError:
        return None
    data, plugins = ([InputFile(**file) for file in found[key]] for key in ("data", "plugins"))
    for file in (*data, *plugins):
        if not Path(file.path).is_absolute():
            message = f"damaged: {shorten(file.path)!r} is not an absolute path"
            raise RunError(f"{directory / NAME}: {message}")
    return InputFiles(data, plugins, found["note"])


def changes(before: Sequence[InputFile], now: Sequence[Path]) -> Changes:
    """Looks at each file that was recorded, and at each that is read now.

    A file is the same by its path, or, where all lie in another folder, by its path from there.

    Raises:
        RunError: A file can't be read.
    """
    left = {str(path.absolute()): path for path in now}
    pairs = [(file, left.pop(file.path)) for file in before if file.path in left]
    met = {file.path for file, _ in pairs}
    gone = [file for file in before if file.path not in met]
    moved = dict(zip(_names(list(left)), left.values(), strict=True))
    names = _names([file.path for file in gone])
    pairs += [(f, moved.pop(name)) for f, name in zip(gone, names, strict=True) if name in moved]
    met = {file.path for file, _ in pairs}
    others = [f"{file.path}: was read, and is not now" for file in before if file.path not in met]
    others += [f"{path}: is read, and was not before" for path in moved.values()]
    try:
        found = [file.change(path) for file, path in pairs]
    except OSError as error:
        raise RunError(f"{error.filename}: can't be read: {error.strerror}") from error
    return Changes([line for line in found if line is not None], others)


def _names(paths: Sequence[str]) -> list[str]:
    """Paths from the folder that holds all of them."""
    if not paths:
        return []
    folder = os.path.commonpath([Path(path).parent for path in paths])
    return [os.path.relpath(path, folder) for path in paths]


def _look(data: Sequence[Path], plugins: Sequence[Path], given_up: Event) -> InputFiles:
    if len(data) > MOST_FILES:
        note = f"{len(data):,} files of data, too many to be listed"
        return InputFiles([], _entries(plugins, True, given_up), note)
    total = sum(entry.bytes or 0 for entry in _entries(data, False, given_up))
    hashed = total <= MOST_HASHED_BYTES
    note = f"{total / 2**20:,.0f} MB of data: known by size and time of change, not by SHA-256"
    return InputFiles(
        _entries(data, hashed, given_up),
        _entries(plugins, True, given_up),
        None if hashed else note,
    )


def _entries(paths: Sequence[Path], hashed: bool, given_up: Event) -> list[InputFile]:
    return [_entry(path.absolute(), hashed, given_up) for path in paths if not given_up.is_set()]


def _entry(path: Path, hashed: bool, given_up: Event) -> InputFile:
    try:
        found = path.stat()
        sha256 = _sha256(path, given_up) if hashed else None
        return InputFile(str(path), found.st_size, _time(found), sha256)
    except OSError:  # it was read before: the run has what it needs
        return InputFile(str(path), None, None, None)


def _time(found: os.stat_result) -> str:
    return datetime.fromtimestamp(found.st_mtime, UTC).isoformat()


def _sha256(path: Path, given_up: Event | None = None) -> str:
    """Of a plain file, which may be reached through links; a record can name anything."""
    digest = hashlib.sha256()
    with open_named(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            if given_up is not None and given_up.is_set():
                break
    return digest.hexdigest()
