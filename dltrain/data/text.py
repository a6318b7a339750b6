"""Sentences with labels: SST-2, anyone's tables of text, and made sentences."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dltrain.core.data_spec import DataSpec
from dltrain.core.errors import DataError, OptionError, shorten
from dltrain.core.option_types import PositiveInt, Quote
from dltrain.core.paths import ConfigPath, resolve_path
from dltrain.core.protocols import Data, DataContext
from dltrain.core.registry import DATA
from dltrain.data.download import fetch
from dltrain.data.in_memory import class_counts
from dltrain.data.labels import in_order, numbers_of, warn_of_spellings
from dltrain.data.length_buckets import LengthBuckets
from dltrain.data.seeding import key
from dltrain.data.splits import TEST_SEED, HoldoutSize, hold_out
from dltrain.data.table import Delimiter, Table, read_table
from dltrain.data.tokenization import (
    Encoder,
    Tokenizer,
    fit_vocabulary,
    split_text,
    text_inputs,
    tokenizer_files,
)
from dltrain.data.utf8 import one_line_end, read_utf8

SST2_FILES = {
    "train.tsv": "sha256:ec192f833a64da08f475488a77b0d0b47db47acd0f458bd18433fc793b569920",
    "dev.tsv": "sha256:eddea6b39e601dd4e7a672b53cc40fdf6019fa80522f351206c24340ca5d9359",
    "test.tsv": "sha256:831169c7e2e429d6026e1bdbb542f33b636e3e596caad9602ebc953c205928b7",
}
SST2_MIRROR = (
    "https://raw.githubusercontent.com/clairett/pytorch-sentiment-classification/master/data/SST2/"
)


JSONL_SUFFIXES = (".jsonl", ".ndjson")
"""Endings, in lower case, of files with a JSON object a line."""


@dataclass(frozen=True)
class Texts:
    """Texts and the number of each one's class."""

    texts: list[str]
    targets: list[int]

    def take(self, index: Sequence[int]) -> Texts:
        """Some of them."""
        return Texts([self.texts[i] for i in index], [self.targets[i] for i in index])


@DATA.register
def sst2(
    context: DataContext,
    /,
    *,
    root: ConfigPath | None = None,
    tokenizer: Tokenizer = "word",
    lowercase: bool | None = None,
    min_count: PositiveInt = 1,
    max_size: PositiveInt | None = None,
    max_tokens: PositiveInt | None = None,
) -> Data:
    """Stanford Sentiment Treebank, whole sentences, negative or positive: 6,920 / 872 / 1,821.

    Socher et al., "Recursive deep models for semantic compositionality over a sentiment treebank",
    2013. Files are looked for in ROOT/sst2 and ROOT, and downloaded if they are missing; `dev` is
    the validation split.

    Args:
        root: Folder of the files; the common data folder if not given.
        tokenizer: word splits at Unicode's word boundaries, character takes each character; or a
            file, tokenizer.json, of the tokenizers library, whose ids and special tokens are kept.
        lowercase: Whether text is lowercased first; true by default, but not with a tokenizer
            file, which has rules of its own.
        min_count: Tokens that are rarer in the training texts are unknown.
        max_size: The longest that the vocabulary may be.
        max_tokens: Longer texts are truncated; special tokens stay.
    """
    base = context.root if root is None else resolve_path(root, context.root)
    home = base / "sst2"
    folder = base if all((base / name).exists() for name in SST2_FILES) else home
    for name, digest in SST2_FILES.items():
        if not (folder / name).exists():
            context.warn(f"downloading SST-2's {name} to {folder}")
            fetch([SST2_MIRROR + name], folder / name, digest)
    train, validation, test = (read_sst2(folder / name) for name in SST2_FILES)
    return _text_data(
        context,
        {"train": train, "validation": validation, "test": test},
        class_names=("negative", "positive"),
        tokenizer=tokenizer,
        lowercase=lowercase,
        min_count=min_count,
        max_size=max_size,
        max_tokens=max_tokens,
        source=str(folder),
        files=tuple(folder / name for name in SST2_FILES),
        columns=("sentence",),
    )


def read_sst2(path: Path) -> Texts:
    """Lines of SENTENCE<TAB>LABEL; DataError names the line that is something else."""
    texts, targets = [], []
    for number, line in enumerate(_lines(path), 1):
        text, tab, label = line.rpartition("\t")
        if not tab or label not in ("0", "1"):
            raise DataError(f"{path}:{number}: not a sentence, a tab, and 0 or 1")
        texts.append(text)
        targets.append(int(label))
    return Texts(texts, targets)


@DATA.register
def text_csv(
    context: DataContext,
    /,
    *,
    path: ConfigPath,
    text: tuple[str, ...],
    label: str,
    delimiter: Delimiter | None = None,
    quote: Quote = "auto",
    tokenizer: Tokenizer = "word",
    lowercase: bool | None = None,
    min_count: PositiveInt = 1,
    max_size: PositiveInt | None = None,
    max_tokens: PositiveInt | None = None,
    validation: HoldoutSize = 0.1,
    test: HoldoutSize = 0.1,
) -> Data:
    """Your own texts with labels: a CSV or TSV file with a header, or a JSONL file.

    Args:
        path: The file, from the working directory or else from the common data folder; .tsv is
            separated by tabs, .jsonl has a JSON object a line.
        text: The columns that hold the text; several are joined by a space.
        label: The column that holds the class.
        delimiter: The character between cells; if not given, a tab in .tsv and a comma otherwise.
        quote: The character that encloses cells with delimiters or line ends in them; auto takes a
            double quote, or none where cells are separated by tabs; null takes none.
        tokenizer: word splits at Unicode's word boundaries, character takes each character; or a
            file, tokenizer.json, of the tokenizers library, whose ids and special tokens are kept.
        lowercase: Whether text is lowercased first; true by default, but not with a tokenizer
            file, which has rules of its own.
        min_count: Tokens that are rarer in the training texts are unknown.
        max_size: The longest that the vocabulary may be.
        max_tokens: Longer texts are truncated; special tokens stay.
        validation: Training texts to validate on: a number, or a fraction.
        test: Texts to test on: a number, or a fraction.
    """
    file = resolve_path(path, context.root)
    if not text:
        raise OptionError("text", "give at least one column")
    lines, columns = _read_columns(file, (*text, label), delimiter, quote)
    texts = [" ".join(cells) for cells in zip(*(columns[name] for name in text), strict=True)]
    class_names = in_order(columns[label])
    if len(class_names) < 2:
        raise DataError(f"{file}: {label!r} is {shorten(columns[label][0])!r} in every row")
    warn_of_spellings(context.warn, label, columns[label], lambda row: f"{file}:{lines[row]}")
    whole = Texts(texts, numbers_of(class_names, columns[label]))
    return _text_data(
        context,
        _cut(context, whole, validation, test),
        class_names=class_names,
        tokenizer=tokenizer,
        lowercase=lowercase,
        min_count=min_count,
        max_size=max_size,
        max_tokens=max_tokens,
        quote=quote,
        source=str(file),
        files=(file,),
        columns=text,
    )


def _read_columns(
    path: Path, names: Sequence[str], delimiter: str | None, quote: Quote
) -> tuple[list[int], dict[str, list[str]]]:
    """The line of each row, and some columns' cells, none of them empty; others do not matter."""
    if path.suffix.lower() in JSONL_SUFFIXES:
        numbers, columns = read_jsonl(path, names)
    else:
        table = read_table(path, delimiter, quote)
        numbers, columns = table.lines, {name: table.column(name) for name in names}
    for name, cells in columns.items():
        for number, cell in zip(numbers, cells, strict=True):
            if not cell:
                raise DataError(
                    f"{path}:{number}: {name!r} is empty; fill in a value or take the row out"
                )
    return numbers, columns


def read_jsonl(path: Path, names: Sequence[str]) -> tuple[list[int], dict[str, list[str]]]:
    """The number of each line of a JSONL file, and the cells by column.

    Raises:
        DataError: The file can't be read, or a line is no JSON object with a text or a number in
            each of the columns.
    """
    rows = _jsonl_rows(path)
    columns: dict[str, list[str]] = {name: [] for name in names}
    for number, row in enumerate(rows, 1):
        for name, cells in columns.items():
            if not isinstance(row, dict) or name not in row:
                raise DataError(f"{path}:{number}: has no {name!r}")
            cell = _cell(row[name])
            if cell is None:
                raise DataError(
                    f"{path}:{number}: {name!r} is {shorten(json.dumps(row[name]))}; "
                    "a text or a number is wanted"
                )
            cells.append(cell)
    return list(range(1, len(rows) + 1)), columns


def scan_jsonl(path: Path) -> Table:
    """All columns of a JSONL file that hold texts or numbers in some rows; others are empty there.

    Raises:
        DataError: The file can't be read, or a line is no JSON object.
    """
    rows = _jsonl_rows(path)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: not a JSON object")
    cells = [{name: _cell(value) for name, value in row.items()} for row in rows]
    names = dict.fromkeys(name for row in cells for name in row if row[name] is not None)
    columns = {name: [row.get(name) or "" for row in cells] for name in names}
    return Table(path, list(range(1, len(rows) + 1)), columns)


def _jsonl_rows(path: Path) -> list[Any]:
    """The value of each line."""
    rows = []
    for number, line in enumerate(_lines(path), 1):
        try:
            rows.append(json.loads(line, parse_int=_Literal, parse_float=_Literal))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not a JSON object") from error
    return rows


class _Literal(str):
    """A number as the file spells it: 1 and 1.0, or two above 2**53, are not the same class."""


def _cell(value: object) -> str | None:
    """A text, without halves of characters, or a finite number or truth value as it is spelled."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, _Literal):
        return str(value) if math.isfinite(float(value)) else None
    if isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value):
        return value.strip()
    return None


def _lines(path: Path) -> list[str]:
    lines = one_line_end(read_utf8(path)).rstrip("\n").split("\n")
    if lines == [""]:
        raise DataError(f"{path}: has no lines")
    return lines


@DATA.register
def toy_text(
    context: DataContext,
    /,
    *,
    samples: PositiveInt = 3000,
    validation: HoldoutSize = 0.1,
    test: HoldoutSize = 0.2,
) -> Data:
    """Made sentences, `the cat chased the dog`: the order of the two names is the class.

    The order of the words decides; which words there are tells nothing, for they are drawn without
    regard to the class. No sentence comes twice, up to 5,600.

    Args:
        samples: Samples in all.
        validation: Training texts to validate on: a number, or a fraction.
        test: Texts to test on: a number, or a fraction.
    """
    names = itertools.combinations(_NAMES, 2)
    contents = list(itertools.product(names, _VERBS, _FILLERS, _FILLERS))
    draw = torch.Generator().manual_seed(key(context.seed))
    orders = [torch.randperm(len(contents), generator=draw).tolist() for _ in range(2)]
    texts, targets = [], []
    for number in range(samples):
        swapped = number % 2
        place = orders[swapped][number // 2 % len(contents)]
        pair, verb, before, after = contents[place]
        first, second = reversed(pair) if swapped else pair
        texts.append(f"{before} the {first} {verb} the {second} {after}".strip())
        targets.append(swapped)
    return _text_data(
        context,
        _cut(context, Texts(texts, targets), validation, test),
        class_names=("in order", "swapped"),
        source=f"made sentences, seed {context.seed}",
    )


_NAMES = ("ape", "bear", "cat", "dog", "eel", "fox", "goat", "hen")
_VERBS = ("chased", "saw", "met", "followed")
_FILLERS = ("", "today", "again and again", "once more", "in the old garden behind the house")


def _cut(context: DataContext, whole: Texts, validation: float, test: float) -> dict[str, Texts]:
    """Test first, always the same; then validation from the rest."""
    targets = torch.tensor(whole.targets)
    rest, tested = hold_out(targets, test, TEST_SEED, name="test")
    kept, held = hold_out(targets[rest], validation, context.seed, name="validation")
    return {
        "train": whole.take(rest[kept].tolist()),
        "validation": whole.take(rest[held].tolist()),
        "test": whole.take(tested.tolist()),
    }


def _text_data(
    context: DataContext,
    parts: dict[str, Texts],
    *,
    class_names: tuple[str, ...],
    source: str,
    files: tuple[Path, ...] = (),
    columns: tuple[str, ...] = ("text",),
    tokenizer: Tokenizer = "word",
    lowercase: bool | None = None,
    min_count: int = 1,
    max_size: int | None = None,
    max_tokens: int | None = None,
    quote: Quote = "auto",
) -> Data:
    """Splits of numbered tokens; the vocabulary is the training texts'."""
    inputs = text_inputs(
        context, tokenizer, lowercase=lowercase, max_tokens=max_tokens, columns=columns
    )
    tokens = (split_text(text, inputs) for text in parts["train"].texts)
    inputs = replace(fit_vocabulary(inputs, tokens, min_count, max_size), quote=quote)
    encode = Encoder(inputs)
    digest = hashlib.sha256(json.dumps(class_names).encode())
    splits: dict[str, LengthBuckets] = {}
    for name, part in parts.items():
        digest.update(json.dumps([name, part.texts, part.targets]).encode())
        if part.texts:
            targets = torch.tensor(part.targets).to(context.device)
            digests = [_digest(text, inputs.lowercase) for text in part.texts]
            sequences = [encode(text) for text in part.texts]
            splits[name] = LengthBuckets(
                sequences,
                targets,
                seed=context.seed,
                digests=digests,
                padding=inputs.padding,
            )
    spec = DataSpec(
        input_shape=(0,),
        num_outputs=len(class_names),
        inputs=inputs,
        class_names=class_names,
        class_counts=class_counts(torch.tensor(parts["train"].targets), len(class_names)),
    )
    return Data(
        spec,
        splits["train"],
        splits.get("validation"),
        splits.get("test"),
        source=source,
        fingerprint=digest.hexdigest(),
        files=(*files, *tokenizer_files(context, tokenizer)),
    )


def _digest(text: str, lowercase: bool) -> bytes:
    """Of the words of a text; equal for texts between which white space alone differs."""
    words = (text.lower() if lowercase else text).split()
    return hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()
