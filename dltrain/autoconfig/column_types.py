"""Column types of a table: numbers, categories, texts, or not useful as features."""

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
"""Maximum number of categories, each of which becomes one feature, in a small table."""
MAX_CLASSES = 20
"""Maximum number of distinct integers that are treated as classes."""
MIN_ROWS_PER_CLASS = 5
"""Minimum average number of rows per distinct integer to treat integers as classes."""

_IDENTIFIER = re.compile(
    r"(?i:(^|[_\W])(id|idx|index|no|nr|number|key|uuid|row)$|^unnamed)|[a-z]I[dD]$"
)
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Characters of Thai, Lao, Burmese, Khmer, Japanese and Chinese."""
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?([T ].*)?|\d\d?[./]\d\d?[./]\d{2,4}( .*)?")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")


@dataclass(frozen=True)
class ColumnSummary:
    """Content of a column.

    Attributes:
        name: Name in the header.
        kind: Type of the column; `useless` columns can't serve as features.
        counts: Frequency of each value, without missing values.
        words: Mean number of words per cell.
        missing: Number of cells without a value.
        reason: Why the column is useless; empty otherwise.
    """

    name: str
    kind: Kind
    counts: Counter[str]
    words: float
    missing: int
    reason: str = ""

    @property
    def distinct(self) -> int:
        """Return the number of distinct values."""
        return len(self.counts)

    @property
    def total(self) -> int:
        """Return the number of cells with a value."""
        return self.counts.total()


def summarize_column(name: str, cells: Sequence[str], lines: Sequence[int]) -> ColumnSummary:
    """Summarize the content of a column.

    Args:
        name: Name in the header.
        cells: Cells of all rows.
        lines: Line number of each row.
    """
    counts = Counter(cell for cell in cells if cell.lower() not in MISSING)
    total = counts.total()
    words = sum(_count_words(value) * count for value, count in counts.items()) / max(1, total)
    kind, why = _kind(name, cells, counts, words, lines)
    return ColumnSummary(name, kind, counts, words, len(cells) - total, why)


def _count_words(text: str) -> int:
    """Return the number of words; in scripts without spaces, of characters."""
    return len(text.split()) + len(UNSPACED.findall(text))


def _kind(
    name: str, cells: Sequence[str], counts: Counter[str], words: float, lines: Sequence[int]
) -> tuple[Kind, str]:
    total, distinct = counts.total(), len(counts)
    if not total:
        return "useless", "is empty in every row"
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
    """Return why words are not useful as a feature; empty if they are."""
    total, distinct = counts.total(), len(counts)
    if sum(map(bool, map(_DECIMAL_COMMA.fullmatch, counts))) > distinct / 2:
        return (
            f"has numbers with a decimal comma, such as {next(iter(counts))!r}: use a decimal point"
        )
    if all(map(_DATE.fullmatch, counts)):
        return "contains dates; convert them to numbers, such as the year, to use it"
    if not is_text and (distinct > max(MAX_CATEGORIES, total / 2) or distinct == total >= 20):
        return f"has {distinct:,} distinct values in {total:,} rows: looks like an identifier"
    if not is_text and distinct > 4 * MAX_CATEGORIES:
        return f"has {distinct:,} distinct values, too many for categories"
    return ""


def _number_kind(name: str, values: Sequence[float], total: int) -> tuple[Kind, str]:
    """Return the kind of numbers, which may only count the rows or identify them."""
    if total < 10 or len(values) < total or not all(map(float.is_integer, values)):
        return "number", ""
    if max(values) - min(values) == total - 1:
        return "useless", "numbers the rows"
    if _IDENTIFIER.search(name):
        return "useless", "has a different integer in each row, and the name of an identifier"
    return "number", ""


def _typo_reason(cells: Sequence[str], lines: Sequence[int]) -> str:
    for line, cell in zip(lines, cells, strict=True):
        if parse_number(cell) is None and cell.lower() not in MISSING:
            return f"contains numbers, but line {line} is {shorten(cell)!r}: correct it to use it"
    raise AssertionError("all cells are numbers")


def could_be_classes(cells: ColumnSummary) -> bool:
    """Return whether a column is a plausible classification target."""
    if cells.kind == "number":
        values = [parse_number(value) for value in cells.counts]
        if cells.distinct == 2:
            return True
        whole = all(value is not None and value.is_integer() for value in values)
        return whole and cells.distinct <= min(MAX_CLASSES, cells.total / MIN_ROWS_PER_CLASS)
    return cells.kind == "category"


def could_be_values(cells: ColumnSummary) -> bool:
    """Return whether a column is a plausible regression target."""
    return cells.kind == "number" and cells.distinct > 2
