"""Files from the web: resumed where they broke off, verified, and in place whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import ssl
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from dltrain.core.errors import DataError, shorten

_ATTEMPTS = 3  # for each address; each goes on where the one before broke off
_CHUNK_BYTES = 1 << 18
_NETWORK_ERRORS = (
    URLError,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
    HTTPException,
    ValueError,  # an address that a server redirects to need not be one
)
_ARCHIVE_SLACK_BYTES = 1 << 24  # what an archive may hold besides the files that are wanted


class UnreachableError(DataError):
    """No address gave the file, for reasons of the network or of the servers."""


def fetch(
    urls: Sequence[str],
    destination: Path,
    digest: str,
    *,
    unpacked: bool = False,
    timeout_seconds: float = 20.0,
    max_bytes: int = 1 << 28,
) -> Path:
    """Downloads a file unless it is there, from the first address that gives it unharmed.

    Args:
        urls: Addresses of the same content, http or https, tried in turn.
        destination: Where the file goes; it appears there once it is complete and verified.
        digest: `sha256:...` or `md5:...`, in hexadecimal.
        unpacked: The digest is that of the content of a .gz file, not of the file.
        timeout_seconds: How long a server may be silent.
        max_bytes: A longer file is not the one expected.

    Returns:
        The destination.

    Raises:
        UnreachableError: No address gave a file.
        DataError: The file that came was not the one expected, or the disk refused it.
    """
    part = destination.with_name(destination.name + ".part")
    failures: list[str] = []
    failure: type[DataError] = UnreachableError
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _lock(destination.parent):
            if destination.exists():
                return destination
            for url in urls:
                received = ""
                try:
                    for _ in range(2):
                        patched = _download(url, part, timeout_seconds, max_bytes)
                        received = _digest(part, digest.partition(":")[0], unpacked)
                        _etag_file(part).unlink(missing_ok=True)
                        if received == digest:
                            _put_in_place(part, destination)
                            return destination
                        part.unlink()
                        if not patched:  # else the pieces may not belong together
                            break
                except _NETWORK_ERRORS as error:
                    failures.append(f"{url}: {_reason(error)}")
                    continue
                failures.append(f"{url}: the file has {received}, not {digest}")
                failure = DataError
    except OSError as error:
        raise DataError(f"{destination}: can't be written: {error}") from error
    raise failure(f"{destination}: can't be downloaded: {'; '.join(failures)}")


def extract(archive: Path, members: Mapping[str, int], folder: Path) -> None:
    """Takes regular files out of a .tar.gz file: those that are named, all of them or none.

    Args:
        archive: The .tar.gz file.
        members: Name in the archive to size in bytes.
        folder: Where the files go, under the last part of their names.

    Raises:
        DataError: The archive is damaged or far too large, or a member is missing, no file, or of
            another size.
    """
    missing = set(members)
    parts: dict[Path, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with gzip.open(archive) as unpacked:
            stream = _Bounded(unpacked, sum(members.values()) + _ARCHIVE_SLACK_BYTES)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    if member.name not in missing:
                        continue
                    content = tar.extractfile(member) if member.isreg() else None
                    if content is None or member.size != members[member.name]:
                        raise DataError(f"{archive}: {member.name} is not the file it should be")
                    place = folder / Path(member.name).name
                    part = place.with_name(place.name + ".part")
                    parts[part] = place
                    with content, part.open("wb") as file:
                        shutil.copyfileobj(content, file)
                        _sync(file)
                    missing.remove(member.name)
            while stream.read(_CHUNK_BYTES):  # to the end, where the checksum is
                pass
        if missing:
            raise DataError(f"{archive}: there is no {', '.join(sorted(missing))} in it")
        for part, place in parts.items():
            _put_in_place(part, place)
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
        raise DataError(f"{archive}: can't be unpacked: {shorten(str(error), 300)}") from error
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


class _Bounded(io.RawIOBase):
    """A file whose first bytes may be read, and no more: what is behind them may be a bomb."""

    def __init__(self, file: gzip.GzipFile, limit: int) -> None:
        self._file, self._limit = file, limit

    def read(self, size: int = -1) -> bytes:
        self._check(self._limit + 1 if size < 0 else self.tell() + size)
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._check(offset)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def _check(self, end: int) -> None:
        if end > self._limit:
            raise tarfile.ReadError(f"it holds more than {self._limit} bytes")


def _download(url: str, part: Path, timeout_seconds: float, max_bytes: int) -> bool:
    """Fills the part file from one address, going on after an interruption.

    Returns:
        Whether the file was put together from several answers.
    """
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            return _receive(url, part, timeout_seconds, max_bytes) > 0
        except (ConnectionError, TimeoutError, HTTPException):
            if not attempts_left:
                raise
    raise AssertionError


def _receive(url: str, part: Path, timeout_seconds: float, max_bytes: int) -> int:
    """One request: the rest of the file where the server still has the same one, or all of it.

    Returns:
        How much was there before.
    """
    _require_http(url)
    headers = {"User-Agent": "dltrain", "Accept-Encoding": "identity"}
    start, etag = _received_so_far(url, part)
    if start:
        # where the file has changed, If-Range brings all of the new one (RFC 9110, 13.1.5)
        headers |= {"Range": f"bytes={start}-", "If-Range": etag}
    request = Request(url, headers=headers)  # noqa: S310 - the scheme is checked above
    try:
        response = _OPENER.open(request, timeout=timeout_seconds)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # there is nothing after what we have: start afresh
            _forget(part)
            raise ConnectionError("the server has no such range") from error
        raise
    with response:
        new_etag = response.headers.get("ETag", "")
        if response.status != 206:
            start = 0
        elif new_etag != etag or not _starts_at(start, response.headers.get("Content-Range", "")):
            _forget(part)
            raise ConnectionError("the server sent another part than was asked for")
        total = None if response.length is None else start + response.length
        if (total or 0) > max_bytes:
            _forget(part)
            raise _too_long(max_bytes)
        with (
            part.open("ab" if start else "wb") as file,
            tqdm(
                desc=part.stem, total=total, initial=start, unit="B", unit_scale=True, disable=None
            ) as bar,
        ):
            _etag_file(part).write_text(f"{new_etag}\n{url}", encoding="utf-8")
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > max_bytes:
                    _forget(part)
                    raise _too_long(max_bytes)
            _sync(file)
            received = file.tell()
    if total is not None and received != total:
        raise ConnectionError(f"the connection broke after {received} of {total} bytes")
    return start


def _too_long(max_bytes: int) -> URLError:
    return URLError(f"longer than {max_bytes} bytes, which the file is not")


def _forget(part: Path) -> None:
    """Takes away what was received; the next request is for all of the file."""
    part.unlink(missing_ok=True)
    _etag_file(part).unlink(missing_ok=True)


def _received_so_far(url: str, part: Path) -> tuple[int, str]:
    """Bytes that can be kept and the ETag that they belong to; 0 where the server gave no ETag."""
    note = _etag_file(part)
    if not part.exists() or not note.exists():
        return 0, ""
    etag, _, noted_url = note.read_text(encoding="utf-8", errors="replace").partition("\n")
    if noted_url != url or not etag.startswith('"'):  # a weak tag, W/"...", doesn't vouch for bytes
        return 0, ""
    return part.stat().st_size, etag


def _starts_at(start: int, content_range: str) -> bool:
    return content_range.startswith(f"bytes {start}-")


def _etag_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


class _HttpOnlyRedirects(HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _require_http(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = build_opener(_HttpOnlyRedirects)


def _require_http(url: str) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise URLError(f"only http and https addresses are followed, not {url}")


def _reason(error: Exception) -> str:
    """What went wrong, without the words that urllib puts around it."""
    if isinstance(error, URLError) and not isinstance(error, HTTPError):
        return shorten(str(error.reason), 300)
    return shorten(" ".join(str(error).split()) or type(error).__name__, 300)


def _digest(path: Path, algorithm: str, unpacked: bool) -> str:
    """`algorithm:hexadecimal` of a file or of what a .gz file holds."""
    with gzip.open(path) if unpacked else path.open("rb") as file:
        try:
            digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm))
        except (gzip.BadGzipFile, EOFError, zlib.error):
            return "a damaged gzip stream"
    return f"{algorithm}:{digest.hexdigest()}"


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process at a time downloads into a folder; the others wait."""
    try:
        import fcntl
    except ImportError:  # Windows; there the digest alone guards against two writers
        yield
        return
    with (folder / ".download.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # closing the file lets go
        yield


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _put_in_place(part: Path, place: Path) -> None:
    """Renames a file that is on the disk, and makes the rename last."""
    part.replace(place)
    if hasattr(os, "O_DIRECTORY"):  # Windows can't open a folder
        folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
