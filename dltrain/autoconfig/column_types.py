"""What the columns of a table hold: numbers, categories, texts, or nothing to learn from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dltrain.core.errors import shorten
from dltrain.data.labels import find_non_number
from dltrain.data.table import MISSING, parse_number

Kind = Literal["number", "category", "text", "useless"]

MAX_CATEGORIES = 50
"""Each becomes a feature of its own; more is one too many for a small table."""
MAX_CLASSES = 20
"""Whole numbers of more values than this are no classes."""
MIN_ROWS_PER_CLASS = 5
"""Whole numbers with fewer rows for each value are no classes either."""

_IDENTIFIER = re.compile(
    r"(?i:(^|[_\W])(id|idx|index|no|nr|number|key|uuid|row)$|^unnamed)|[a-z]I[dD]$"
)
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Characters of Thai, Lao, Burmese, Khmer, Japanese and Chinese."""
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?([T ].*)?|\d\d?[./]\d\d?[./]\d{2,4}( .*)?")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")


@dataclass(frozen=True)
class ColumnSummary:
    """A column.

    Attributes:
        name: In the header.
        kind: `useless` is what nothing can be learnt from.
        counts: How often each value comes, missing ones left out.
        words: In a cell, on average.
        missing: Cells without a value.
        why: What makes it useless; empty otherwise.
    """

    name: str
    kind: Kind
    counts: Counter[str]
    words: float
    missing: int
    reason: str = ""

    @property
    def distinct(self) -> int:
        """How many different values."""
        return len(self.counts)

    @property
    def total(self) -> int:
        """How many cells have one."""
        return self.counts.total()


def summarize_column(name: str, cells: Sequence[str], lines: Sequence[int]) -> ColumnSummary:
    """Says what a column holds.

    Args:
        name: In the header.
        cells: In the order of the rows.
        lines: Their numbers in the file.
    """
    counts = Counter(cell for cell in cells if cell.lower() not in MISSING)
    total = counts.total()
    words = sum(_count_words(value) * count for value, count in counts.items()) / max(1, total)
    kind, why = _kind(name, cells, counts, words, lines)
    return ColumnSummary(name, kind, counts, words, len(cells) - total, why)


def _count_words(text: str) -> int:
    """Words in a text; in scripts that put no space between them, characters."""
    return len(text.split()) + len(UNSPACED.findall(text))


def _kind(
    name: str, cells: Sequence[str], counts: Counter[str], words: float, lines: Sequence[int]
) -> tuple[Kind, str]:
    total, distinct = counts.total(), len(counts)
    if not total:
        return "useless", "has no value in any row"
    most, often = counts.most_common(1)[0]
    if distinct == 1 or (total >= 20 and total - often < 3):
        return "useless", f"is {shorten(most)!r} in {often:,} of {total:,} rows"
    numbers = [value for value in map(parse_number, counts) if value is not None]
    if find_non_number(counts) is None:
        return _number_kind(name, numbers, total)
    if 0.8 * distinct < len(numbers) < distinct:
        return "useless", _typo_reason(cells, lines)
    is_text = words >= 1.5 and distinct > total / 2
    why = _useless_reason(counts, is_text)
    return ("useless" if why else "text" if is_text else "category"), why


def _useless_reason(counts: Counter[str], is_text: bool) -> str:
    """Why words say nothing; empty where they do."""
    total, distinct = counts.total(), len(counts)
    if sum(map(bool, map(_DECIMAL_COMMA.fullmatch, counts))) > distinct / 2:
        return f"has numbers with a decimal comma, such as {next(iter(counts))!r}: write a point"
    if all(map(_DATE.fullmatch, counts)):
        return "has dates; make numbers of them, such as the year, to learn from it"
    if not is_text and (distinct > max(MAX_CATEGORIES, total / 2) or distinct == total >= 20):
        return f"has {distinct:,} different values in {total:,} rows: a name, it seems"
    if not is_text and distinct > 4 * MAX_CATEGORIES:
        return f"has {distinct:,} different values, too many for categories"
    return ""


def _number_kind(name: str, values: Sequence[float], total: int) -> tuple[Kind, str]:
    """Whether numbers say something, or only count the rows."""
    if total < 10 or len(values) < total or not all(map(float.is_integer, values)):
        return "number", ""
    if max(values) - min(values) == total - 1:
        return "useless", "numbers the rows"
    if _IDENTIFIER.search(name):
        return "useless", "has another whole number in each row, and is called like an identifier"
    return "number", ""


def _typo_reason(cells: Sequence[str], lines: Sequence[int]) -> str:
    for line, cell in zip(lines, cells, strict=True):
        if parse_number(cell) is None and cell.lower() not in MISSING:
            return f"has numbers, but line {line} is {shorten(cell)!r}: mend it to learn from it"
    raise AssertionError("a column of numbers is none with a slip")


def could_be_classes(cells: ColumnSummary) -> bool:
    """Whether a column is a plausible class to predict."""
    if cells.kind == "number":
        values = [parse_number(value) for value in cells.counts]
        if cells.distinct == 2:
            return True
        whole = all(value is not None and value.is_integer() for value in values)
        return whole and cells.distinct <= min(MAX_CLASSES, cells.total / MIN_ROWS_PER_CLASS)
    return cells.kind == "category"


def could_be_values(cells: ColumnSummary) -> bool:
    """Whether a column is a plausible value to predict."""
    return cells.kind == "number" and cells.distinct > 2
