"""Unusual tables: each row is read verbatim, or the error names its line."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rows import Row

from dltrain.config.plugins import register_builtins
from dltrain.core.data_spec import PADDING
from dltrain.core.errors import DataError
from dltrain.core.protocols import DataContext
from dltrain.core.registry import DATA
from dltrain.data.labels import sorted_names

NUM_ROWS = 40
LABELS = [
    ("00501", "501"),
    ("1", "1.0"),
    ("1e3", "1000"),
    ("-0", "0"),
    ("9007199254740992", "9007199254740993"),
    ("12e400", "13e400"),
    ("10", "9"),
    ("=1+1", "@x"),
    ("é", "e\u0301"),
    ("true", "True"),
    ("NA", "nan"),
]
ODD = [
    '"',
    "'",
    "\\",
    "=",
    "\u202e",
    "\u2028",
    "\x85",
    "\x0b",
    "\ufeff",
    "#",
    "e\u0301",
    "👍🏽",
    "0",
]


@dataclass(frozen=True)
class Case:
    """A file and the expected result.

    Attributes:
        name: Name of the file.
        content: Text of the file.
        rows: Expected texts and labels; None if the file must be refused.
        line: Line that the error must name.
        options: Options of `text_csv`.
    """

    name: str
    content: str
    rows: list[tuple[str, str]] | None
    line: int | None
    options: dict[str, Any]


def table(random: Random, letters: list[str]) -> list[tuple[str, str]]:
    """Return nonempty texts of these letters with labels that are easy to confuse."""
    labels = random.choice(LABELS)
    words = [["".join(random.choices(letters, k=4)) for _ in range(3)] for _ in range(NUM_ROWS)]
    return [(f"x{n} {' '.join(own)} x", labels[n % 2]) for n, own in enumerate(words)]


def join(rows: list[tuple[str, str]], delimiter: str, end: str = "\n") -> str:
    """Join rows to lines without quoting."""
    return "".join(delimiter.join(row) + end for row in [("text", "label"), *rows])


def quoted(random: Random) -> Case:
    """Build a spreadsheet export: quoted cells that contain delimiters and line ends."""
    rows = table(random, ["a", " ", ",", ";", "\n", "\r\n", "\t", *ODD])
    delimiter, file = random.choice(",;|\t"), io.StringIO(newline="")
    end = random.choice(["\n", "\r\n"])
    writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator=end)
    writer.writerows([("text", "label"), *rows])
    content = random.choice(["", "\ufeff"]) + file.getvalue()
    return Case("t.csv", content, rows, None, {"delimiter": delimiter, "quote": '"'})


def bare(random: Random) -> Case:
    """Build a table with quotes that are ordinary characters."""
    rows = table(random, ["a", " ", *ODD])
    starts = random.choices(["", '"', '""', "'"], k=NUM_ROWS)
    rows = [(start + text, label) for start, (text, label) in zip(starts, rows, strict=True)]
    is_tsv, end = random.random() < 0.5, random.choice(["\n", "\r\n"])
    content = join(rows, "\t" if is_tsv else ",", end)
    return Case(
        f"t.{'tsv' if is_tsv else 'csv'}", content, rows, None, {} if is_tsv else {"quote": None}
    )


def unbalanced(random: Random) -> Case:
    """Build a table with one to three unbalanced quotes, the first at the start of a cell."""
    rows = table(random, ["a", "b", " "])
    first, *more = sorted(random.sample(range(NUM_ROWS), random.randint(1, 3)))
    rows[first] = (f'"{rows[first][0]}', rows[first][1])
    for row in more:
        text, label = rows[row]
        rows[row] = (random.choice([f'"{text}', f'{text}"', f'a "{text}', '"']), label)
    return Case("t.csv", join(rows, ","), None, first + 2, {})


def ragged(random: Random) -> Case:
    """Build a table with a row of too few or too many cells, or with a NUL."""
    rows, row = table(random, ["a", "b", " "]), random.randrange(NUM_ROWS)
    delimiter = random.choice(",\t")
    lines = join(rows, delimiter).split("\n")
    text = rows[row][0]
    lines[row + 1] = random.choice([text, lines[row + 1] + delimiter, lines[row + 1] + "\0"])
    return Case("t.csv", "\n".join(lines), None, row + 2, {"delimiter": delimiter})


def unused(random: Random) -> Case:
    """Build a table with unused columns: unnamed, incomplete, or with arbitrary cells."""
    rows = table(random, ["a", "b", " "])
    odd = random.choices(["", "nan", "=1", "x" * 200_000, "-inf", "\u202e"], k=NUM_ROWS)
    lines = [f"{cell}\t{text}\t{label}\t" for cell, (text, label) in zip(odd, rows, strict=True)]
    content = "\n".join([f"{random.choice(['', 'more', '7'])}\ttext\tlabel\tmore", *lines])
    return Case("t.tsv", content, rows, None, {})


def objects(random: Random) -> Case:
    """Build JSON lines with numbers as labels, which keep their spelling."""
    rows = table(random, ["a", " ", ",", "\n", *ODD])
    rows = [(text, random.choice(["1", "1.0", "10", "9007199254740993"])) for text, _ in rows]
    rows[:4] = [(rows[n][0], label) for n, label in enumerate(("2", "2.0", "2e0", "20"))]
    lines = [f'{{"text": {json.dumps(text)}, "label": {label}, "n": null}}' for text, label in rows]
    return Case("t.jsonl", "\n".join(lines), rows, None, {})


CASES: list[Callable[[Random], Case]] = [quoted, bare, unbalanced, ragged, unused, objects]


def read(case: Case, folder: Path) -> Counter[tuple[str, str]]:
    """Decode texts and labels from the batches of a data source."""
    register_builtins()
    data = DATA["text_csv"].builder(
        DataContext(root=folder, warn=lambda _: None),
        path=str(folder / case.name),
        text=("text",),
        label="label",
        tokenizer="character",
        lowercase=False,
        validation=0,
        test=0,
        **case.options,
    )
    tokens, names = data.spec.inputs.vocabulary, data.spec.class_names
    assert names == sorted_names(names), names
    found = Counter()
    for batch in data.train.batches(7):
        for sample, target in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
            text = "".join(tokens[number] for number in sample if number != PADDING)
            found[text, names[target]] += 1
    return found


def trial(number: int, folder: Path) -> None:
    case = CASES[number % len(CASES)](Random(number))
    (folder / case.name).write_bytes(case.content.encode())
    if case.rows is None:
        with pytest.raises(DataError, match=rf"{case.name}:{case.line}: "):
            read(case, folder)
        return
    assert read(case, folder) == Counter((text.strip(), label) for text, label in case.rows)


ROWS = [
    Row(
        "hostile tables: unbalanced quotes, unusual delimiters and line ends, labels like "
        "numbers, missing cells",
        "each row is read once, its text and label as they are spelled; or refused by the line "
        "where the mistake begins",
        trial,
        pr=60,
        release=1200,
    )
]
