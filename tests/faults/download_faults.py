"""Faulty servers and hostile archives."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import time
import tracemalloc
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from processes import ChildProcess
from rows import Row, assert_within
from web_server import Handler, Server, serving

from dltrain.core.errors import DataError
from dltrain.data.archive import extract
from dltrain.data.download import fetch

CONTENT = Random(0).randbytes(200_000)
OTHER = Random(1).randbytes(len(CONTENT))
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MAX_BYTES = 1_000_000
SILENCE_SECONDS = 2
BOMB_BYTES = 200_000_000
READ_TO_THE_END = ("the client read an endless response", None)

# ---------------------------------------------------------------- faults of a server


def respond(handler: Handler, status: int, body: bytes, **headers: str | None) -> None:
    """Send a complete response; None omits a header."""
    all_headers = {"ETag": handler.server.etag, "Content-Length": str(len(body))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    handler.send_response(status)
    for name, value in all_headers.items():
        if value is not None:
            handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.close_connection = True


def start_of(handler: Handler) -> int:
    return int((handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))


def range_of(start: int, total: int = len(CONTENT)) -> str:
    return f"bytes {start}-{total - 1}/{total}"


def cut(length: int, content: bytes, handler: Handler) -> None:
    respond(handler, 200, content[:length], Content_Length=str(len(content)))


def cut_rest(length: int, handler: Handler) -> None:
    start = start_of(handler)
    rest = CONTENT[start:]
    length = str(len(rest))
    respond(handler, 206, rest[:length], Content_Length=length, Content_Range=range_of(start))


def cut_chunks(length: int, handler: Handler) -> None:
    size = f"{len(CONTENT):x}\r\n".encode()
    body = size + CONTENT[:length]
    respond(handler, 200, body, Content_Length=None, Transfer_Encoding="chunked")


def cut_without_length(length: int, handler: Handler) -> None:
    respond(handler, 200, CONTENT[:length], Content_Length=None)


def wrong_content(handler: Handler) -> None:
    respond(handler, 200, OTHER)


def range_ignored(handler: Handler) -> None:
    respond(handler, 200, CONTENT)


def range_at_other_offset(length: int, handler: Handler) -> None:
    respond(handler, 206, CONTENT[length:], Content_Range=range_of(length))


def range_with_wrong_header(length: int, handler: Handler) -> None:
    respond(handler, 206, CONTENT[length:], Content_Range=range_of(start_of(handler)))


def range_without_header(handler: Handler) -> None:
    respond(handler, 206, CONTENT[start_of(handler) :])


def range_of_other_content(handler: Handler) -> None:
    start = start_of(handler)
    respond(handler, 206, OTHER[start:], Content_Range=range_of(start))


def changed(length: int, handler: Handler) -> None:
    start = start_of(handler)
    respond(handler, 206, OTHER[start:length], ETag='"v2"', Content_Range=range_of(start))


def without_etag(length: int, handler: Handler) -> None:
    respond(handler, 200, CONTENT[:length], ETag=None, Content_Length=str(len(CONTENT)))


def strange_etag(handler: Handler) -> None:
    respond(handler, 200, CONTENT[:99], ETag='"\xe9\r\n "', Content_Length=str(len(CONTENT)))


def code(status: int, handler: Handler) -> None:
    respond(handler, status, b"<html>no</html>" * 100)


def redirect(location: str, handler: Handler) -> None:
    location = location.replace("HERE", handler.server.url)
    respond(handler, 302, b"", Location=location or None)


def endless(handler: Handler) -> None:
    respond(handler, 200, b"", Content_Length=None)
    for _ in range(1000):
        handler.wfile.write(OTHER)
    handler.server.requests.append(READ_TO_THE_END)


def longer_than_declared(handler: Handler) -> None:
    respond(handler, 200, CONTENT + OTHER, Content_Length=str(len(CONTENT)))


def shorter_than_declared(handler: Handler) -> None:
    respond(handler, 200, CONTENT, Content_Length=str(10**15))


def declared_short(length: int, handler: Handler) -> None:
    respond(handler, 200, CONTENT, Content_Length=str(length))


def strange_length(handler: Handler) -> None:
    respond(handler, 200, CONTENT, Content_Length="-7")


def packed(handler: Handler) -> None:
    respond(handler, 200, gzip.compress(CONTENT), Content_Encoding="gzip")


def nothing(handler: Handler) -> None:
    handler.close_connection = True


def invalid_response(content: bytes, handler: Handler) -> None:
    handler.wfile.write(content)
    handler.close_connection = True


def long_header(handler: Handler) -> None:
    respond(handler, 200, CONTENT, X_Long="x" * 100_000)


def long_reason(handler: Handler) -> None:
    invalid_response(b"HTTP/1.1 500 " + b"\x1b[2J\xff no" * 5000 + b"\r\n\r\n", handler)


def silence(handler: Handler) -> None:
    time.sleep(2 * SILENCE_SECONDS)
    handler.close_connection = True


REDIRECTS = (
    "HERE/again",
    "HERE/again?" + "x" * 20_000,
    "file:///etc/passwd",
    "FILE://localhost/etc/passwd",
    "ftp://127.0.0.1/x",
    "data:text/plain,x",
    "/",
    "",
    "http://[x",
    "http://127.0.0.1:99999/",
    "http://" + "a" * 200 + ".invalid/",
    "http://..:1/",
    "//",
    "http:///x",
    "gopher://\x1b[2J",
)


def fault(random: Random) -> Callable[[Handler], None]:
    """Return a random fault of a server."""
    length = random.choice((0, 1, random.randrange(len(CONTENT)), len(CONTENT) - 1))
    return random.choice(
        [
            *[partial(cut, length, CONTENT)] * 5,
            *[partial(cut_rest, length)] * 3,
            partial(cut, length, OTHER),
            partial(cut_chunks, length),
            partial(cut_without_length, length),
            wrong_content,
            range_ignored,
            partial(range_at_other_offset, length),
            partial(range_with_wrong_header, length),
            range_without_header,
            range_of_other_content,
            partial(changed, length),
            partial(without_etag, length),
            strange_etag,
            partial(code, random.choice((204, 400, 403, 404, 416, 429, 500, 503))),
            *[partial(redirect, random.choice(REDIRECTS))] * 3,
            endless,
            longer_than_declared,
            shorter_than_declared,
            partial(declared_short, length),
            strange_length,
            packed,
            nothing,
            partial(invalid_response, b"\x00\xff invalid_response\r\n\r\n"),
            partial(invalid_response, b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"),
            long_header,
            long_reason,
            silence,
        ]
    )


# ---------------------------------------------------------------- downloads


def get(url: str, place: Path) -> None:
    fetch([url], place, DIGEST, timeout_seconds=SILENCE_SECONDS, max_bytes=MAX_BYTES)


def get_in_process(url: str, place: str) -> None:
    """Download in a process, which may wait for the download of another one."""
    try:
        get(url, Path(place))
    except DataError as error:
        print(error)


def check_message(text: str, *names: str) -> None:
    lines = text.splitlines()
    assert 1 <= len(lines) <= 2, text
    assert all(line.isprintable() for line in lines), repr(text)
    assert len(text) < 1000, f"{len(text)} characters: {text[:2000]}"
    assert any(name in text for name in names), text


def check_folder(place: Path) -> None:
    """Assert that the file is complete or absent; a partial download may exist if it is absent."""
    names = {path.name for path in place.parent.iterdir()} - {".download.lock"}
    part, note = f"{place.name}.part", f"{place.name}.part.etag"
    if place.exists():
        assert place.read_bytes() == CONTENT
        assert names == {place.name}, names
    else:
        assert names in (set(), {part}, {part, note}), names


def check_download_without_faults(server: Server, place: Path) -> None:
    server.faults.clear()
    get(server.url, place)
    assert place.read_bytes() == CONTENT
    check_folder(place)


def download_trial(number: int, folder: Path) -> None:
    random = Random(number)
    (folder / "a" / "b").mkdir(parents=True)
    place = folder / "a" / "b" / "file.bin"
    with serving(CONTENT) as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        server.faults = [fault(random) for _ in range(random.randint(1, 7))]
        if number % 5 == 0:
            download_in_two_processes(server, place)
        else:
            for _ in range(random.randint(1, 2)):
                try:
                    get(server.url, place)
                except DataError as error:
                    check_message(str(error), str(place))
                check_folder(place)
        check_download_without_faults(server, place)
        assert READ_TO_THE_END not in server.requests
    written = {path for path in folder.rglob("*") if path.is_file()}
    written -= {folder / f"{name}.{end}" for name in ("one", "two") for end in ("out", "err")}
    assert written == {place, place.parent / ".download.lock"}, written


def download_in_two_processes(server: Server, place: Path) -> None:
    both = [
        ChildProcess(name, place.parents[2], get_in_process, server.url, str(place))
        for name in ("one", "two")
    ]
    try:
        for process in both:
            assert process.wait() == 0, process.err
            if process.out:
                check_message(process.out, str(place))
    finally:
        for process in both:
            process.end()
    check_folder(place)


# ---------------------------------------------------------------- archives

MEMBERS = {"d/one": Random(2).randbytes(30_000), "d/two": bytes(5000)}
SIZES = {name: len(content) for name, content in MEMBERS.items()}


class Zeros(io.RawIOBase):
    """An endless file of zeros."""

    def read(self, size: int = -1) -> bytes:
        return bytes(size)


def regular(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def other_kind(tar: tarfile.TarFile, name: str, kind: bytes, target: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    tar.addfile(info)


def add_hostile_member(random: Random, tar: tarfile.TarFile, outside: Path) -> None:
    """Add an unexpected member, or an expected name with wrong content."""
    name = random.choice(
        ("../evil", "d/../../evil", str(outside / "evil"), "d/one", "d/two", "d", "./d/one", "evil")
    )
    match random.randrange(6):
        case 0:
            regular(tar, name, random.randbytes(random.choice((0, 9, 5000, 30_000))))
        case 1:
            target = random.choice(("/etc/passwd", "../../evil", str(outside), "d/two"))
            other_kind(tar, name, tarfile.SYMTYPE, target)
        case 2:
            target = random.choice(("d/one", "d/two", "/etc/passwd", str(outside / "kept")))
            other_kind(tar, name, tarfile.LNKTYPE, target)
        case 3:
            other_kind(tar, name, random.choice((tarfile.CHRTYPE, tarfile.BLKTYPE)))
        case 4:
            other_kind(tar, name, random.choice((tarfile.FIFOTYPE, tarfile.DIRTYPE)))
        case 5:
            info = tarfile.TarInfo(name)
            info.pax_headers = {"size": random.choice(("-1", "x", "9" * 40)), "path": name}
            tar.addfile(info)


def build_archive(random: Random, outside: Path) -> tuple[bytes, bool]:
    """Return an archive, and whether it has no hostile members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        steps: list[Callable[[], None]] = [
            partial(regular, tar, name, content)
            for name, content in MEMBERS.items()
            if random.random() < 0.9
        ]
        count = random.choice((0, 0, 1, 1, 2, 4))
        steps += [partial(add_hostile_member, random, tar, outside) for _ in range(count)]
        random.shuffle(steps)
        for step in steps:
            step()
    return buffer.getvalue(), count == 0


def bomb(random: Random, path: Path) -> None:
    """Write an archive of a gigabyte: a member, a name, or data after the last member."""
    kind = random.choice(("other", "wanted", "header", "name", "behind"))
    with (
        gzip.open(path, "wb", compresslevel=1) as packer,
        tarfile.open(fileobj=packer, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        info = tarfile.TarInfo("d/one" if kind == "wanted" else "d/other")
        info.size = 1 << 30
        if kind in ("header", "name"):
            info.type = tarfile.XHDTYPE if kind == "header" else tarfile.GNUTYPE_LONGNAME
        if kind == "behind":
            for name, content in MEMBERS.items():
                regular(tar, name, content)
        tar.addfile(info, Zeros())
    assert path.stat().st_size < 20_000_000


def scramble(random: Random, content: bytes) -> bytes:
    """Flip a bit, truncate, or append bytes."""
    changed, place = bytearray(content), random.randrange(len(content))
    match random.randrange(3):
        case 0:
            changed[place] ^= 1 << random.randrange(8)
        case 1:
            del changed[place:]
        case 2:
            changed += random.randbytes(random.randint(1, 50))
    return bytes(changed)


def state_of(folder: Path) -> dict[str, bytes | str]:
    """Return the content of files, and the mode of everything else."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        if path.is_file() and not path.is_symlink()
        else oct(path.lstat().st_mode)
        for path in sorted(folder.rglob("*"))
    }


def archive_trial(number: int, folder: Path) -> None:
    random = Random(number)
    outside = folder / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    path = folder / "archive.tar.gz"
    is_bomb = number % 25 == 24
    if is_bomb:
        bomb(random, path)
    else:
        content, good = build_archive(random, outside)
        damaged = random.random() < 0.4
        path.write_bytes(scramble(random, content) if damaged else content)
    before = state_of(folder)
    place = folder / "into" / "here"
    refused = False
    if is_bomb:
        tracemalloc.start()
    started = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            extract(path, SIZES, place)
    except DataError as error:
        refused = True
        check_message(str(error), path.name)
    finally:
        peak = tracemalloc.get_traced_memory()[1] if is_bomb else 0
        tracemalloc.stop()
    assert_within(time.monotonic() - started, 10)
    assert peak < BOMB_BYTES, f"{peak} bytes"
    after = state_of(folder)
    found = {
        name.removeprefix("into/here/"): after.pop(name)
        for name in list(after)
        if name.startswith("into/here/")
    }
    for name in ("into", "into/here"):
        after.pop(name, None)
    assert after == before, after.keys() ^ before.keys()
    if refused:
        assert not found, found.keys()
    else:
        assert found.keys() == {"one", "two"}, found.keys()
        assert {name: len(value) for name, value in found.items()} == {"one": 30_000, "two": 5000}
        assert not is_bomb
        if good:
            assert found == {"one": MEMBERS["d/one"], "two": MEMBERS["d/two"]}
    assert not os.path.lexists(folder.parent / "evil")


ROWS = [
    Row(
        "downloads: cut, wrong, redirected, endless, lying about ranges, from two processes",
        "the file appears only with the right digest; partial downloads are resumed; a later "
        "attempt succeeds",
        download_trial,
        pr=50,
        release=200,
    ),
    Row(
        "archives with ../, links, devices, decompression bombs and damage",
        "all expected files or none; nothing else is written",
        archive_trial,
        pr=25,
        release=200,
    ),
]
