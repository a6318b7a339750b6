"""Downloads that resume after an interruption, are verified, and appear whole or not at all."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import ssl
import zlib
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from dltrain.checkpoints.atomic_files import sync
from dltrain.core.errors import DataError, shorten

_ATTEMPTS = 3  # per URL; each resumes where the previous one was interrupted
_CHUNK_BYTES = 1 << 18
_NETWORK_ERRORS = (
    URLError,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
    HTTPException,
    ValueError,  # a server may redirect to a malformed URL
)


class UnreachableError(DataError):
    """No URL delivered the file because of the network or the servers."""


def fetch(
    urls: Sequence[str],
    destination: Path,
    digest: str,
    *,
    decompressed: bool = False,
    timeout_seconds: float = 20.0,
    max_bytes: int = 1 << 28,
) -> Path:
    """Download a file unless it exists, from the first URL that delivers the expected content.

    One process at a time downloads into a directory; others wait.

    Args:
        urls: URLs of the same content, http or https, tried in turn.
        destination: Path of the file, which appears once it is complete and verified.
        digest: Expected digest, `sha256:...` or `md5:...`, in hexadecimal.
        decompressed: Whether the digest is that of a .gz file's decompressed content.
        timeout_seconds: Maximum time in seconds without data from the server.
        max_bytes: Maximum size of the file in bytes.

    Returns:
        The destination.

    Raises:
        UnreachableError: No URL delivered a file.
        DataError: The digest of a downloaded file differs, or the destination can't be written.
    """
    part = destination.with_name(destination.name + ".part")
    failures: list[str] = []
    failure: type[DataError] = UnreachableError
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with (destination.parent / ".download.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
            if destination.exists():
                return destination
            for url in urls:
                try:
                    received = _download(
                        url, part, digest, decompressed, timeout_seconds, max_bytes
                    )
                except _NETWORK_ERRORS as error:
                    failures.append(f"{url}: {_reason(error)}")
                    continue
                if received == digest:
                    part.replace(destination)
                    sync(destination.parent)
                    return destination
                failures.append(f"{url}: the file has {received}, expected {digest}")
                failure = DataError
    except OSError as error:
        raise DataError(f"{destination}: can't be written: {error}") from error
    raise failure(f"{destination}: can't be downloaded: {'; '.join(failures)}")


def _download(
    url: str, part: Path, digest: str, decompressed: bool, timeout_seconds: float, max_bytes: int
) -> str:
    """Download one URL to the part file, which is removed if its digest differs.

    Returns:
        The digest of what was received.
    """
    received = ""
    for _ in range(2):
        was_resumed = _receive_with_retries(url, part, timeout_seconds, max_bytes)
        received = _digest(part, digest.partition(":")[0], decompressed)
        _etag_file(part).unlink(missing_ok=True)
        if received == digest:
            return received
        part.unlink()
        if not was_resumed:  # otherwise the pieces may be of different files: restart once
            break
    return received


def _receive_with_retries(url: str, part: Path, timeout_seconds: float, max_bytes: int) -> bool:
    """Complete the part file; return whether it consists of several responses."""
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            return _receive(url, part, timeout_seconds, max_bytes) > 0
        except (ConnectionError, TimeoutError, HTTPException):
            if not attempts_left:
                raise
    raise AssertionError


def _receive(url: str, part: Path, timeout_seconds: float, max_bytes: int) -> int:
    """Request the rest of the file if the server still has the same one, otherwise all of it.

    Returns:
        Number of bytes kept from earlier responses.
    """
    _require_http(url)
    headers = {"User-Agent": "dltrain", "Accept-Encoding": "identity"}
    start, etag = _resumable_bytes(url, part)
    if start:
        # If the file has changed, If-Range makes the server send all of it (RFC 9110, 13.1.5).
        headers |= {"Range": f"bytes={start}-", "If-Range": etag}
    request = Request(url, headers=headers)  # noqa: S310 - the scheme is checked above
    try:
        response = _OPENER.open(request, timeout=timeout_seconds)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # range not satisfiable: restart
            _discard(part)
            raise ConnectionError("the server does not have the requested range") from error
        raise
    with response:
        new_etag = response.headers.get("ETag", "")
        content_range = response.headers.get("Content-Range", "")
        if response.status != 206:
            start = 0
        elif new_etag != etag or not content_range.startswith(f"bytes {start}-"):
            _discard(part)
            raise ConnectionError("the server sent a different range than requested")
        total = None if response.length is None else start + response.length
        _require_at_most(max_bytes, total or 0, part)
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
                _require_at_most(max_bytes, file.tell(), part)
            file.flush()
            os.fsync(file.fileno())
            received = file.tell()
    if total is not None and received != total:
        raise ConnectionError(f"the connection broke after {received} of {total} bytes")
    return start


def _require_at_most(max_bytes: int, size: int, part: Path) -> None:
    if size > max_bytes:
        _discard(part)
        raise URLError(f"the file is longer than the expected maximum of {max_bytes} bytes")


def _discard(part: Path) -> None:
    """Remove what was received, so that the next request is for the whole file."""
    part.unlink(missing_ok=True)
    _etag_file(part).unlink(missing_ok=True)


def _resumable_bytes(url: str, part: Path) -> tuple[int, str]:
    """Return the size of the part file and its ETag; 0 if the server sent no strong ETag."""
    etag_file = _etag_file(part)
    if not part.exists() or not etag_file.exists():
        return 0, ""
    etag, _, source = etag_file.read_text(encoding="utf-8", errors="replace").partition("\n")
    if source != url or not etag.startswith('"'):  # a weak tag, W/"...", does not identify bytes
        return 0, ""
    return part.stat().st_size, etag


def _etag_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


class _HttpOnlyRedirects(HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _require_http(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = build_opener(_HttpOnlyRedirects)


def _require_http(url: str) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise URLError(f"only http and https URLs are accepted, got {url}")


def _reason(error: Exception) -> str:
    """Return the cause of an error without the text that urllib puts around it."""
    if isinstance(error, URLError) and not isinstance(error, HTTPError):
        return shorten(str(error.reason), 300)
    return shorten(" ".join(str(error).split()) or type(error).__name__, 300)


def _digest(path: Path, algorithm: str, decompressed: bool) -> str:
    """Return `algorithm:hexadecimal` of a file, or of a .gz file's decompressed content."""
    with gzip.open(path) if decompressed else path.open("rb") as file:
        try:
            digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm))
        except (gzip.BadGzipFile, EOFError, zlib.error):
            return "a damaged gzip stream"
    return f"{algorithm}:{digest.hexdigest()}"
