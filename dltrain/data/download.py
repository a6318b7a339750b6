"""Files from the web: resumed where they broke off, verified, and in place whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
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

from dltrain.errors import DataError

_ATTEMPTS = 3  # for each address; each goes on where the one before broke off
_CHUNK_BYTES = 1 << 18
_NETWORK_ERRORS = (URLError, ConnectionError, TimeoutError, ssl.SSLError, HTTPException)


class UnreachableError(DataError):
    """No address gave the file, for reasons of the network or of the servers."""


def fetch(
    urls: Sequence[str],
    destination: Path,
    digest: str,
    *,
    unpacked: bool = False,
    timeout_seconds: float = 20.0,
) -> Path:
    """Downloads a file unless it is there, from the first address that gives it unharmed.

    Args:
        urls: Addresses of the same content, http or https, tried in turn.
        destination: Where the file goes; it appears there once it is complete and verified.
        digest: `sha256:...` or `md5:...`, in hexadecimal.
        unpacked: The digest is that of the content of a .gz file, not of the file.
        timeout_seconds: How long a server may be silent.

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
                try:
                    _download(url, part, timeout_seconds)
                except _NETWORK_ERRORS as error:
                    failures.append(f"{url}: {_reason(error)}")
                    continue
                received = _digest(part, digest.partition(":")[0], unpacked)
                _etag_file(part).unlink(missing_ok=True)
                if received == digest:
                    _put_in_place(part, destination)
                    return destination
                part.unlink()
                failures.append(f"{url}: the file has {received}, not {digest}")
                failure = DataError
    except OSError as error:
        raise DataError(f"{destination}: can't be written: {error}") from error
    raise failure(f"{destination}: can't be downloaded: {'; '.join(failures)}")


def extract(archive: Path, members: Mapping[str, int], folder: Path) -> None:
    """Takes regular files out of a .tar.gz file, and nothing but those that are named.

    Args:
        archive: The .tar.gz file.
        members: Name in the archive to size in bytes.
        folder: Where the files go, under the last part of their names.

    Raises:
        DataError: The archive is damaged, or a member is missing, no file, or of another size.
    """
    missing = set(members)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.name not in missing:
                    continue
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or member.size != members[member.name]:
                    raise DataError(f"{archive}: {member.name} is not the file it should be")
                place = folder / Path(member.name).name
                part = place.with_name(place.name + ".part")
                with content, part.open("wb") as file:
                    shutil.copyfileobj(content, file)
                    _sync(file)
                _put_in_place(part, place)
                missing.remove(member.name)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{archive}: can't be unpacked: {error}") from error
    if missing:
        raise DataError(f"{archive}: there is no {', '.join(sorted(missing))} in it")


def _download(url: str, part: Path, timeout_seconds: float) -> None:
    """Fills the part file from one address, going on after an interruption."""
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            return _receive(url, part, timeout_seconds)
        except (ConnectionError, TimeoutError, HTTPException):
            if not attempts_left:
                raise


def _receive(url: str, part: Path, timeout_seconds: float) -> None:
    """One request: the rest of the file where the server still has the same one, or all of it."""
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
            part.unlink(missing_ok=True)
            raise ConnectionError("the server has no such range") from error
        raise
    with response:
        new_etag = response.headers.get("ETag", "")
        if response.status != 206:
            start = 0
        elif new_etag != etag or not _starts_at(start, response.headers.get("Content-Range", "")):
            part.unlink()
            raise ConnectionError("the server sent another part than was asked for")
        total = None if response.length is None else start + response.length
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
            _sync(file)
            received = file.tell()
    if total is not None and received != total:
        raise ConnectionError(f"the connection broke after {received} of {total} bytes")


def _received_so_far(url: str, part: Path) -> tuple[int, str]:
    """Bytes that can be kept and the ETag that they belong to; 0 where the server gave no ETag."""
    note = _etag_file(part)
    if not part.exists() or not note.exists():
        return 0, ""
    etag, _, noted_url = note.read_text(encoding="utf-8").partition("\n")
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
        return str(error.reason)
    return str(error) or type(error).__name__


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
