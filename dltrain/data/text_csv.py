"""Labelled texts from the user's CSV, TSV or JSONL file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dltrain.core.errors import DataError, OptionError, shorten
from dltrain.core.option_types import PositiveInt, Quote
from dltrain.core.paths import ConfigPath, resolve_path
from dltrain.core.protocols import Data, DataContext
from dltrain.core.registry import DATA
from dltrain.data.jsonl import JSONL_SUFFIXES, read_jsonl
from dltrain.data.labelled_texts import LabelledTexts, split_texts, text_data
from dltrain.data.labels import class_indices, sorted_names, warn_about_spellings
from dltrain.data.splits import HoldoutSize
from dltrain.data.table_reading import Delimiter, read_table
from dltrain.data.tokenization import Tokenizer


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
    class_names = sorted_names(columns[label])
    if len(class_names) < 2:
        raise DataError(f"{file}: {label!r} is {shorten(columns[label][0])!r} in every row")
    warn_about_spellings(context.warn, label, columns[label], lambda row: f"{file}:{lines[row]}")
    whole = LabelledTexts(texts, class_indices(class_names, columns[label]))
    return text_data(
        context,
        split_texts(context, whole, validation, test),
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
