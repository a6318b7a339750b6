"""Damaged data files: each is refused by name in one or two lines, or read."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import re
import resource
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import yaml
from PIL import Image
from processes import ChildProcess
from rows import Row, assert_within
from small_data import write_cifar, write_images, write_text

import dltrain
from dltrain.build import build_data, build_runtime
from dltrain.core.errors import DataError, DltrainError, UsageError
from dltrain.data import cifar10

SECONDS = 5
BOMB_BYTES = 200_000_000
RECORDS = 20  # in a file of CIFAR-10, instead of 10,000
ROWS_OF_TEXT = 40


@dataclass(frozen=True)
class Damage:
    """A damaged file.

    Attributes:
        content: Damaged bytes.
        line: Line or record that the error must name.
        detectable: Whether checks of the format detect the damage: the file is refused, or its
            data are unchanged.
    """

    content: bytes
    line: int | None = None
    detectable: bool = False


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        write: Function that writes valid files to a folder.
        files: Pattern of the files to damage.
        data: Section `data` of the config.
        detects: Whether the format detects that bytes were changed; see `Damage.detectable`.
        special: Damages specific to this format.
    """

    write: Callable[[Path], None]
    files: str
    data: dict[str, Any]
    detects: Callable[[bytes, bytes], bool]
    special: tuple[Callable[[Random, bytes], Damage], ...]


# ---------------------------------------------------------------- valid files


def write_idx(folder: Path, *, compressed: bool) -> None:
    write_images(folder / "data", train=60, test=20, side=8, classes=3)
    for path in (folder / "data").iterdir():
        if compressed:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
            path.unlink()


def write_image_folder(folder: Path, *, suffix: str) -> None:
    random = Random(0)
    for number in range(12):
        path = folder / "data" / ("ant", "bee")[number % 2] / f"{number}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.frombytes("RGB", (12, 9), random.randbytes(12 * 9 * 3))
        image.save(path, **({"dpi": (72, 72)} if suffix == ".png" else {"quality": 90}))


def write_table(folder: Path) -> None:
    random = Random(0)
    (folder / "data").mkdir()
    lines = ["width,colour,größe,kind"]
    lines += [
        f"{random.random():.4f},{random.choice(('red', 'grün'))},{random.randint(1, 99)},k{i % 3}"
        for i in range(ROWS_OF_TEXT)
    ]
    (folder / "data" / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def sentence(number: int) -> str:
    return f"ein {('schöner', 'öder')[number % 2]} Film von {number} Stunden"


def write_tsv(folder: Path) -> None:
    (folder / "data").mkdir()
    lines = ["text\tlabel", *(f"{sentence(i)}\tk{i % 2}" for i in range(ROWS_OF_TEXT))]
    (folder / "data" / "texts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_jsonl(folder: Path) -> None:
    (folder / "data").mkdir()
    rows = [{"text": sentence(i), "label": i % 2, "more": [i]} for i in range(ROWS_OF_TEXT)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "data" / "texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- damages


def scramble(random: Random, content: bytes) -> bytes:
    """Truncate, flip, insert, delete, duplicate, zero or append bytes."""
    start = random.randrange(len(content))
    stop = min(len(content), start + random.randint(1, 40))
    changed = bytearray(content)
    match random.choice(("cut", "flip", "insert", "delete", "double", "blank", "append", "empty")):
        case "cut":
            del changed[start:]
        case "flip":
            for _ in range(random.choice((1, 1, 2, 8))):
                changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
        case "insert":
            changed[start:start] = random.randbytes(random.randint(1, 40))
        case "delete":
            del changed[start:stop]
        case "double":
            changed[start:start] = changed[start:stop]
        case "blank":
            changed[start:stop] = bytes(stop - start)
        case "append":
            changed += random.randbytes(random.randint(1, 40))
        case "empty":
            changed.clear()
    return bytes(changed)


def always(_before: bytes, _after: bytes) -> bool:
    return True


def never(_before: bytes, _after: bytes) -> bool:
    return False


def by_length(before: bytes, after: bytes) -> bool:
    return len(before) != len(after)


def by_idx_header(before: bytes, after: bytes) -> bool:
    header = 4 + 4 * before[3]
    return len(before) != len(after) or before[:header] != after[:header]


def other_magic(random: Random, content: bytes) -> Damage:
    return Damage(random.randbytes(4) + content[4:], detectable=True)


def huge_dimension(random: Random, content: bytes) -> Damage:
    offset = 4 + 4 * random.randrange(content[3])
    number = struct.pack(">I", random.choice((0, 2**31, 2**32 - 1, random.randrange(2**32))))
    return Damage(content[:offset] + number + content[offset + 4 :], detectable=True)


def inside_gzip(damage: Callable[[Random, bytes], Damage]) -> Callable[[Random, bytes], Damage]:
    """Damage the content of a gzip file, with a valid checksum."""

    def change(random: Random, content: bytes) -> Damage:
        damaged = damage(random, gzip.decompress(content))
        return Damage(gzip.compress(damaged.content, mtime=0), detectable=damaged.detectable)

    return change


def truncated_content(random: Random, content: bytes) -> Damage:
    return Damage(content[: random.randrange(len(content))], detectable=True)


def two_gzip_members(random: Random, content: bytes) -> Damage:
    return Damage(content + gzip.compress(random.randbytes(20)), detectable=True)


def label_out_of_range(random: Random, content: bytes) -> Damage:
    record, changed = random.randrange(RECORDS), bytearray(content)
    changed[record * cifar10.RECORD_BYTES] = random.randint(10, 255)
    return Damage(bytes(changed), line=record + 1)


def other_size(random: Random, content: bytes) -> Damage:
    """Damage a PNG: it declares another size, with a valid checksum."""
    width, height = (random.choice((0, 1, 12, 2000, 2**31 - 1, 2**32 - 1)) for _ in "wh")
    return Damage(png_size(content, width, height))


def png_size(content: bytes, width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def other_jpeg_size(random: Random, content: bytes) -> Damage:
    height, width = (random.choice((0, 1, 12, 2000, 65535)) for _ in "hw")
    return Damage(jpeg_size(content, width, height))


def jpeg_size(content: bytes, width: int, height: int) -> bytes:
    offset = content.index(b"\xff\xc0") + 5
    return content[:offset] + struct.pack(">HH", height, width) + content[offset + 4 :]


def as_latin_1(_random: Random, content: bytes) -> Damage:
    text = content.decode()
    line = next(n for n, line in enumerate(text.split("\n"), 1) if not line.isascii())
    return Damage(text.encode("latin-1"), line=line)


def as_utf_16(_random: Random, content: bytes) -> Damage:
    return Damage(content.decode().encode("utf-16"), line=1)


def line_changed(
    change: Callable[[Random, str], str], *, named: bool = True
) -> Callable[[Random, bytes], Damage]:
    """Return a damage that changes one line, except the first."""

    def damage(random: Random, content: bytes) -> Damage:
        lines = content.decode().split("\n")
        number = random.randrange(1, ROWS_OF_TEXT)
        lines[number] = change(random, lines[number])
        text = "\n".join(lines).encode("utf-8", "surrogatepass")
        return Damage(text, line=number + 1 if named else None)

    return damage


def cell_changed(
    delimiter: str, cells: list[str], column: int | None = None, *, named: bool = True
) -> Callable[[Random, bytes], Damage]:
    def change(random: Random, line: str) -> str:
        parts = line.split(delimiter)
        parts[random.randrange(len(parts)) if column is None else column] = random.choice(cells)
        return delimiter.join(parts)

    return line_changed(change, named=named)


def header_changed(header: str) -> Callable[[Random, bytes], Damage]:
    return lambda _, content: Damage(header.encode() + content[content.index(b"\n") :])


def value_changed(value: str, key: str = "text") -> Callable[[Random, bytes], Damage]:
    """Return a damage that replaces the text of a value in a JSON object."""

    def change(_: Random, line: str) -> str:
        row = json.loads(line)
        row[key] = "HERE"
        return json.dumps(row, ensure_ascii=False).replace('"HERE"', value)

    return line_changed(change)


RAGGED = (
    line_changed(lambda _, line: line + ",1"),
    line_changed(lambda _, line: line.partition(",")[2]),
)
LONG = "x" * 200_000
DEEP = "[" * 100_000

FORMATS = {
    "IDX": Format(
        partial(write_idx, compressed=False),
        "data/*",
        {"name": "idx", "root": "data", "validation": 12},
        by_idx_header,
        (other_magic, huge_dimension),
    ),
    "IDX, compressed": Format(
        partial(write_idx, compressed=True),
        "data/*",
        {"name": "idx", "root": "data", "validation": 12},
        always,
        (
            inside_gzip(other_magic),
            inside_gzip(huge_dimension),
            inside_gzip(truncated_content),
            two_gzip_members,
        ),
    ),
    "CSV": Format(
        write_table,
        "data/table.csv",
        {"name": "csv", "path": "data/table.csv", "target": "kind"},
        never,
        (
            *RAGGED,
            as_latin_1,
            as_utf_16,
            cell_changed(",", ["", "nan", "NaN", "N/A", "null", "inf", "-Infinity"]),
            cell_changed(",", [LONG], 1, named=False),
            cell_changed(",", ["1e308", "-1e308", "1e39"], 0, named=False),
            cell_changed(",", ["9" * 5000], 2),
            cell_changed(",", ['"x'], 1, named=False),
            header_changed('"a\nb","' + "c" * 3000 + '",d,e'),
            header_changed("width,width,colour,kind"),
            header_changed(",,,"),
        ),
    ),
    "CSV of values": Format(
        write_table,
        "data/table.csv",
        {"name": "csv", "path": "data/table.csv", "target": "width", "target_kind": "value"},
        never,
        (
            *RAGGED,
            cell_changed(",", ["", "nan", "inf", "red"], 0),
            cell_changed(",", ["1e308", "-1e308", "1e39"], 0, named=False),
        ),
    ),
    "TSV of texts": Format(
        write_tsv,
        "data/texts.tsv",
        {"name": "text_csv", "path": "data/texts.tsv", "text": ["text"], "label": "label"},
        never,
        (
            as_latin_1,
            as_utf_16,
            line_changed(lambda _, line: line + "\tmore"),
            line_changed(lambda _, line: line.partition("\t")[0]),
            cell_changed("\t", ["", " "]),
            cell_changed("\t", [LONG], named=False),
            cell_changed("\t", ["\0", "\u202e", "nan"], 0, named=False),
            header_changed('"a\nb"\t"' + "c" * 3000 + '"'),
        ),
    ),
    "JSONL of texts": Format(
        write_jsonl,
        "data/texts.jsonl",
        {"name": "text_csv", "path": "data/texts.jsonl", "text": ["text"], "label": "label"},
        never,
        (
            as_latin_1,
            as_utf_16,
            *(line_changed(lambda _, _l, new=new: new) for new in (DEEP, "[]", "7", "", "{}")),
            value_changed(DEEP + DEEP.replace("[", "]")),
            value_changed("null"),
            value_changed('["a\\nb"]'),
            value_changed(json.dumps(["long" * 1000])),
            value_changed('"\\ud800"'),
            value_changed('""'),
            value_changed("9" * 5000),
            value_changed("NaN", "label"),
            value_changed("-Infinity", "label"),
            value_changed("1e999", "label"),
        ),
    ),
    "running text": Format(
        lambda folder: write_text(folder / "data" / "text.txt", 60),
        "data/text.txt",
        {"name": "text_file", "path": "data/text.txt", "window": 8},
        never,
        (
            lambda _, content: Damage(content.decode().encode("utf-16"), line=1),
            line_changed(lambda _, line: "\0" * 50 + line, named=False),
            lambda random, content: Damage(content[: random.randint(1, 20)]),
        ),
    ),
    "PNG": Format(
        partial(write_image_folder, suffix=".png"),
        "data/*/*",
        {"name": "image_folder", "root": "data", "size": 8, "workers": 0},
        always,
        (other_size,),
    ),
    "JPEG": Format(
        partial(write_image_folder, suffix=".jpg"),
        "data/*/*",
        {"name": "image_folder", "root": "data", "size": 8, "workers": 0},
        never,
        (other_jpeg_size,),
    ),
    "CIFAR-10": Format(
        lambda folder: write_cifar(folder / "data", RECORDS),
        "data/*",
        {"name": "cifar10", "root": "data", "validation": 10},
        by_length,
        (label_out_of_range,),
    ),
}

# ---------------------------------------------------------------- trials


def load_experiment(folder: Path, data: dict[str, Any]) -> dltrain.Experiment:
    config = {
        "model": "mlp",
        "data": data,
        "loss": "cross_entropy",
        "optimizer": {"name": "sgd", "lr": 0.1},
        "train": {"steps": 1, "batch_size": 8, "device": "cpu"},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return dltrain.load(path)


def read(chosen: dltrain.Experiment) -> str:
    """Build the data, read every batch, and return a digest of all values."""
    data = build_data(chosen, build_runtime(chosen), lambda _: None)
    digest = hashlib.sha256(repr((data.spec.class_names, data.spec.input_shape)).encode())
    for split in (data.train, data.validation, data.test):
        for batch in split.batches(7) if split is not None else ():
            assert bool(batch.inputs.isfinite().all()), "nonfinite inputs without an error"
            digest.update(batch.inputs.numpy().tobytes() + batch.targets.numpy().tobytes())
    return digest.hexdigest()


def check_refusal(error: DltrainError, folder: Path, files: list[Path], line: int | None) -> None:
    """Assert that a short error names a data file, or the line of the config."""
    text = str(error)
    where = files if isinstance(error, DataError) else [folder / "config.yaml"]
    assert isinstance(error, DataError | UsageError), type(error)
    assert any(path.name in text for path in where), f"names no file: {text}"
    lines = text.splitlines()
    if isinstance(error, DataError):  # an error of the config shows its line too
        assert len(lines) <= 2, f"{len(lines)} lines: {text[:2000]}"
    assert len(text) < 600, f"{len(text)} characters: {text[:2000]}"
    assert all(line.isprintable() for line in lines), repr(text)
    if line is not None:
        assert re.search(rf"(:|record |line ){line}\b", text), f"does not name line {line}: {text}"


@contextlib.contextmanager
def small_cifar() -> Iterator[None]:
    with mock.patch.object(cifar10, "FILE_BYTES", RECORDS * cifar10.RECORD_BYTES):
        yield


def trial(number: int, folder: Path) -> None:
    random = Random(number)
    name = list(FORMATS)[number % len(FORMATS)]
    kind = FORMATS[name]
    kind.write(folder)
    files = sorted(folder.glob(kind.files))
    with small_cifar(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chosen = load_experiment(folder, kind.data)
        expected = read(chosen)
        path = random.choice(files)
        before = path.read_bytes()
        if random.random() < 0.5:
            after = scramble(random, before)
            damage = Damage(after, detectable=kind.detects(before, after))
        else:
            damage = random.choice(kind.special)(random, before)
        path.write_bytes(damage.content)
        started = time.monotonic()
        try:
            actual = read(chosen)
        except DltrainError as error:
            check_refusal(error, folder, files, damage.line)
        else:
            assert damage.line is None, f"{path.name}: line {damage.line} was not refused"
            assert actual == expected or not damage.detectable, f"{path.name}: no error"
    seconds = time.monotonic() - started
    assert_within(seconds, SECONDS)
    assert not caught, [str(warning.message) for warning in caught]


# ---------------------------------------------------------------- decompression bombs


def idx_header(*shape: int) -> bytes:
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)


def zeros(head: bytes, megabytes: int) -> bytes:
    """Return a gzip file of a header and zeros, built in little memory."""
    packer, mebibyte, check = zlib.compressobj(9, wbits=-15), bytes(1 << 20), zlib.crc32(head)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(mebibyte) + packer.flush(zlib.Z_FULL_FLUSH)
    for _ in range(megabytes):
        check = zlib.crc32(mebibyte, check)
    tail = struct.pack("<II", check, len(head) + (megabytes << 20))
    return gzip.compress(b"")[:10] + start + block * megabytes + packer.flush() + tail


def idx_bomb(megabytes: int, folder: Path, *, images: tuple[int, ...], labels: int) -> None:
    """Write images, or labels if there are no images, that decompress to many megabytes."""
    write_idx(folder, compressed=True)
    name, head = (
        ("images-idx3", idx_header(*images)) if images else ("labels-idx1", idx_header(labels))
    )
    (folder / "data" / f"train-{name}-ubyte.gz").write_bytes(zeros(head, megabytes))


def idx_images_without_labels(megabytes: int, folder: Path) -> None:
    idx_bomb(megabytes, folder, images=(megabytes, 1024, 1024), labels=0)


def idx_labels_without_images(megabytes: int, folder: Path) -> None:
    idx_bomb(megabytes, folder, images=(), labels=megabytes << 20)


def idx_longer_than_declared(megabytes: int, folder: Path) -> None:
    idx_bomb(megabytes, folder, images=(60, 8, 8), labels=0)


def idx_shorter_than_declared(megabytes: int, folder: Path) -> None:
    idx_bomb(1, folder, images=(60, megabytes << 10, 1024), labels=0)


def idx_sparse(megabytes: int, folder: Path) -> None:
    write_idx(folder, compressed=False)
    with (folder / "data" / "train-images-idx3-ubyte").open("r+b") as file:
        file.truncate(megabytes << 20)


def cifar_sparse(megabytes: int, folder: Path) -> None:
    write_cifar(folder / "data", RECORDS)
    with (folder / "data" / "data_batch_2.bin").open("r+b") as file:
        file.truncate(megabytes << 20)


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png_of(width: int, height: int, *more: bytes) -> bytes:
    """Return a black PNG with one bit per pixel and additional chunks."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    body = b"".join((head, *more, chunk(b"IDAT", rows), chunk(b"IEND", b"")))
    return b"\x89PNG\r\n\x1a\n" + body


def write_bomb(content: bytes, folder: Path, suffix: str = ".png") -> None:
    write_image_folder(folder, suffix=suffix)
    (folder / "data" / "ant" / f"0{suffix}").write_bytes(content)


def png_wide(megabytes: int, folder: Path) -> None:
    write_bomb(png_of(20_000, 50 * megabytes), folder)


def png_thin(megabytes: int, folder: Path) -> None:
    write_bomb(png_of(1, 100 * megabytes), folder)


def png_texts(megabytes: int, folder: Path) -> None:
    bomb = zeros(b"", megabytes)
    raw = b"\x78\x9c" + bomb[10:-8] + b"\0\0\0\0"
    write_bomb(png_of(9, 9, chunk(b"zTXt", b"k\0\0" + raw), chunk(b"iCCP", b"k\0\0" + raw)), folder)


def jpeg_wide(megabytes: int, folder: Path) -> None:
    write_image_folder(folder, suffix=".jpg")
    path = folder / "data" / "ant" / "0.jpg"
    path.write_bytes(jpeg_size(path.read_bytes(), 65_000, 4 * megabytes))


def jpeg_thin(megabytes: int, folder: Path) -> None:
    write_image_folder(folder, suffix=".jpg")
    Image.new("L", (40 * megabytes, 1)).save(folder / "data" / "ant" / "0.jpg")


BOMBS: list[tuple[Callable[[int, Path], None], str]] = [
    (idx_images_without_labels, "IDX, compressed"),
    (idx_labels_without_images, "IDX, compressed"),
    (idx_longer_than_declared, "IDX, compressed"),
    (idx_shorter_than_declared, "IDX, compressed"),
    (idx_sparse, "IDX"),
    (cifar_sparse, "CIFAR-10"),
    (png_wide, "PNG"),
    (png_thin, "PNG"),
    (png_texts, "PNG"),
    (jpeg_wide, "JPEG"),
    (jpeg_thin, "JPEG"),
]


def read_a_bomb(data: dict[str, Any], size: int) -> None:
    """Read data; print the error, the growth of memory and the duration as JSON."""
    chosen = load_experiment(Path.cwd(), data | {"size": size} if size else data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message, started = "", time.monotonic()
    with small_cifar(), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            read(chosen)
        except DltrainError as error:
            check_refusal(error, Path.cwd(), sorted(Path("data").rglob("*")), None)
            message = str(error)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(json.dumps({"message": message, "grown": grown, "seconds": time.monotonic() - started}))


def bomb_trial(number: int, folder: Path) -> None:
    write, name = BOMBS[number % len(BOMBS)]
    write(Random(number).randint(400, 1000), folder)
    size = 224 if name in ("PNG", "JPEG") else 0
    process = ChildProcess("reader", folder, read_a_bomb, FORMATS[name].data, size)
    try:
        assert process.wait() == 0, process.err
        outcome = json.loads(process.out)
    finally:
        process.end()
    assert not process.err, process.err
    assert outcome["grown"] < BOMB_BYTES, f"{write.__name__}: {outcome}"
    assert_within(outcome["seconds"], SECONDS)


ROWS = [
    Row(
        "data files, mutated: IDX, CSV, TSV, JSONL, text, PNG, JPEG, CIFAR-10",
        "refused in one or two lines that name the file and the line, or read; identical data "
        "where the file has a checksum or a count",
        trial,
        pr=100,
        release=1000,
    ),
    Row(
        "data files that unpack to hundreds of megabytes",
        "refused or read within 200 MB and five seconds",
        bomb_trial,
        pr=len(BOMBS),
        release=5 * len(BOMBS),
    ),
]
