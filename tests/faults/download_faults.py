"""Servers that misbehave, and archives that mean harm."""

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
from rows import Row, in_time
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
READ_TO_THE_END = ("two hundred megabytes that nobody asked for", None)

# ---------------------------------------------------------------- what a server may do


def answer(handler: Handler, status: int, body: bytes, **headers: str | None) -> None:
    """A whole answer; None leaves a header out."""
    shown = {"ETag": handler.server.etag, "Content-Length": str(len(body))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    handler.send_response(status)
    for name, value in shown.items():
        if value is not None:
            handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.close_connection = True


def start_of(handler: Handler) -> int:
    return int((handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))


def range_of(start: int, total: int = len(CONTENT)) -> str:
    return f"bytes {start}-{total - 1}/{total}"


def cut(place: int, content: bytes, handler: Handler) -> None:
    answer(handler, 200, content[:place], Content_Length=str(len(content)))


def cut_rest(place: int, handler: Handler) -> None:
    start = start_of(handler)
    rest = CONTENT[start:]
    length = str(len(rest))
    answer(handler, 206, rest[:place], Content_Length=length, Content_Range=range_of(start))


def cut_chunks(place: int, handler: Handler) -> None:
    size = f"{len(CONTENT):x}\r\n".encode()
    body = size + CONTENT[:place]
    answer(handler, 200, body, Content_Length=None, Transfer_Encoding="chunked")


def cut_without_length(place: int, handler: Handler) -> None:
    answer(handler, 200, CONTENT[:place], Content_Length=None)


def wrong_content(handler: Handler) -> None:
    answer(handler, 200, OTHER)


def range_ignored(handler: Handler) -> None:
    answer(handler, 200, CONTENT)


def range_elsewhere(place: int, handler: Handler) -> None:
    answer(handler, 206, CONTENT[place:], Content_Range=range_of(place))


def range_that_lies(place: int, handler: Handler) -> None:
    answer(handler, 206, CONTENT[place:], Content_Range=range_of(start_of(handler)))


def range_unsaid(handler: Handler) -> None:
    answer(handler, 206, CONTENT[start_of(handler) :])


def range_of_another(handler: Handler) -> None:
    start = start_of(handler)
    answer(handler, 206, OTHER[start:], Content_Range=range_of(start))


def changed(place: int, handler: Handler) -> None:
    start = start_of(handler)
    answer(handler, 206, OTHER[start:place], ETag='"v2"', Content_Range=range_of(start))


def without_etag(place: int, handler: Handler) -> None:
    answer(handler, 200, CONTENT[:place], ETag=None, Content_Length=str(len(CONTENT)))


def strange_etag(handler: Handler) -> None:
    answer(handler, 200, CONTENT[:99], ETag='"\xe9\r\n "', Content_Length=str(len(CONTENT)))


def code(status: int, handler: Handler) -> None:
    answer(handler, status, b"<html>no</html>" * 100)


def redirect(place: str, handler: Handler) -> None:
    location = place.replace("HERE", handler.server.url)
    answer(handler, 302, b"", Location=location or None)


def endless(handler: Handler) -> None:
    answer(handler, 200, b"", Content_Length=None)
    for _ in range(1000):
        handler.wfile.write(OTHER)
    handler.server.requests.append(READ_TO_THE_END)


def longer_than_announced(handler: Handler) -> None:
    answer(handler, 200, CONTENT + OTHER, Content_Length=str(len(CONTENT)))


def shorter_than_announced(handler: Handler) -> None:
    answer(handler, 200, CONTENT, Content_Length=str(10**15))


def announced_short(place: int, handler: Handler) -> None:
    answer(handler, 200, CONTENT, Content_Length=str(place))


def strange_length(handler: Handler) -> None:
    answer(handler, 200, CONTENT, Content_Length="-7")


def packed(handler: Handler) -> None:
    answer(handler, 200, gzip.compress(CONTENT), Content_Encoding="gzip")


def nothing(handler: Handler) -> None:
    handler.close_connection = True


def rubbish(content: bytes, handler: Handler) -> None:
    handler.wfile.write(content)
    handler.close_connection = True


def long_header(handler: Handler) -> None:
    answer(handler, 200, CONTENT, X_Long="x" * 100_000)


def long_reason(handler: Handler) -> None:
    rubbish(b"HTTP/1.1 500 " + b"\x1b[2J\xff no" * 5000 + b"\r\n\r\n", handler)


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
    """What a server does instead of what it is asked for."""
    place = random.choice((0, 1, random.randrange(len(CONTENT)), len(CONTENT) - 1))
    return random.choice(
        [
            *[partial(cut, place, CONTENT)] * 5,
            *[partial(cut_rest, place)] * 3,
            partial(cut, place, OTHER),
            partial(cut_chunks, place),
            partial(cut_without_length, place),
            wrong_content,
            range_ignored,
            partial(range_elsewhere, place),
            partial(range_that_lies, place),
            range_unsaid,
            range_of_another,
            partial(changed, place),
            partial(without_etag, place),
            strange_etag,
            partial(code, random.choice((204, 400, 403, 404, 416, 429, 500, 503))),
            *[partial(redirect, random.choice(REDIRECTS))] * 3,
            endless,
            longer_than_announced,
            shorter_than_announced,
            partial(announced_short, place),
            strange_length,
            packed,
            nothing,
            partial(rubbish, b"\x00\xff rubbish\r\n\r\n"),
            partial(rubbish, b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"),
            long_header,
            long_reason,
            silence,
        ]
    )


# ---------------------------------------------------------------- downloads


def get(url: str, place: Path) -> None:
    fetch([url], place, DIGEST, timeout_seconds=SILENCE_SECONDS, max_bytes=MAX_BYTES)


def get_in_a_process(url: str, place: str) -> None:
    """Waits as long as it takes: the other process may be the one that downloads."""
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
    """The file is there right, or not at all; else a later try can resume from what there is."""
    names = {path.name for path in place.parent.iterdir()} - {".download.lock"}
    part, note = f"{place.name}.part", f"{place.name}.part.etag"
    if place.exists():
        assert place.read_bytes() == CONTENT
        assert names == {place.name}, names
    else:
        assert names in (set(), {part}, {part, note}), names


def check_good_try(server: Server, place: Path) -> None:
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
            two_at_once(server, place)
        else:
            for _ in range(random.randint(1, 2)):
                try:
                    get(server.url, place)
                except DataError as error:
                    check_message(str(error), str(place))
                check_folder(place)
        check_good_try(server, place)
        assert READ_TO_THE_END not in server.requests
    written = {path for path in folder.rglob("*") if path.is_file()}
    written -= {folder / f"{name}.{end}" for name in ("one", "two") for end in ("out", "err")}
    assert written == {place, place.parent / ".download.lock"}, written


def two_at_once(server: Server, place: Path) -> None:
    both = [
        ChildProcess(name, place.parents[2], get_in_a_process, server.url, str(place))
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
    """A file of nothing but zeros."""

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


def harm(random: Random, tar: tarfile.TarFile, outside: Path) -> None:
    """A member that is not one of those wanted, or not what it should be."""
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


def packed_archive(random: Random, outside: Path) -> tuple[bytes, bool]:
    """An archive, and whether its regular members of that name all are the right ones."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        steps: list[Callable[[], None]] = [
            partial(regular, tar, name, content)
            for name, content in MEMBERS.items()
            if random.random() < 0.9
        ]
        count = random.choice((0, 0, 1, 1, 2, 4))
        steps += [partial(harm, random, tar, outside) for _ in range(count)]
        random.shuffle(steps)
        for step in steps:
            step()
    return buffer.getvalue(), count == 0


def bomb(random: Random, path: Path) -> None:
    """An archive of a gigabyte: a member, a name, or what follows the last member."""
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


def scrambled(random: Random, content: bytes) -> bytes:
    """Bits flipped, or bytes cut off or appended."""
    changed, place = bytearray(content), random.randrange(len(content))
    match random.randrange(3):
        case 0:
            changed[place] ^= 1 << random.randrange(8)
        case 1:
            del changed[place:]
        case 2:
            changed += random.randbytes(random.randint(1, 50))
    return bytes(changed)


def everything(folder: Path) -> dict[str, bytes | str]:
    """What there is: files by content, all else by kind."""
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
        content, good = packed_archive(random, outside)
        damaged = random.random() < 0.4
        path.write_bytes(scrambled(random, content) if damaged else content)
    before = everything(folder)
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
    in_time(time.monotonic() - started, 10)
    assert peak < BOMB_BYTES, f"{peak} bytes"
    after = everything(folder)
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
