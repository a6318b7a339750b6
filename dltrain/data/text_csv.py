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

    >>> import tempfile
    >>> from dltrain.core.protocols import DataContext
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory, "reviews.csv")
    ...     _ = path.write_text("text,label\\n" + "a fine film,good\\na dull film,bad\\n" * 10)
    ...     context = DataContext(Path(directory))
    ...     data = text_csv(context, path=str(path), text=("text",), label="label")
    >>> data.spec.class_names, len(data.train), len(data.validation), len(data.test)
    (('bad', 'good'), 16, 2, 2)

    Args:
        path: The file, from the working directory or else from the common data folder; .tsv is
            separated by tabs, .jsonl has a JSON object a line.
        text: Columns that contain the text; several are joined by a space.
        label: Column that contains the class.
        delimiter: Character between cells (default: a tab in .tsv files, otherwise a comma).
        quote: Character that encloses cells with delimiters or line breaks; auto is a double
            quote, or none in tab-separated files; null is none.
        tokenizer: word (split at Unicode word boundaries), character, or the path of a
            tokenizer.json file of the tokenizers library, used with its special tokens.
        lowercase: Whether text is converted to lower case first (default: true, except with a
            tokenizer file).
        min_count: Minimum frequency in the training texts; rarer tokens are unknown.
        max_size: Maximum size of the vocabulary (default: unlimited).
        max_tokens: Maximum number of tokens in a text (default: unlimited); longer texts are
            truncated, special tokens stay.
        validation: Validation texts, taken from the training set: a number, or a fraction.
        test: Test texts: a number, or a fraction.
    """
    file = resolve_path(path, context.root)
    if not text:
        raise OptionError("text", "expected at least one column")
    lines, columns = _read_columns(file, (*text, label), delimiter, quote)
    texts = [" ".join(cells) for cells in zip(*(columns[name] for name in text), strict=True)]
    class_names = sorted_names(columns[label])
    if len(class_names) < 2:
        raise DataError(
            f"{file}: expected two or more classes in {label!r}, got {shorten(columns[label][0])!r}"
        )
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
    """Read the line number of each row, and the cells of some columns, none of them empty."""
    if path.suffix.lower() in JSONL_SUFFIXES:
        numbers, columns = read_jsonl(path, names)
    else:
        table = read_table(path, delimiter, quote)
        numbers, columns = table.lines, {name: table.column(name) for name in names}
    for name, cells in columns.items():
        for number, cell in zip(numbers, cells, strict=True):
            if not cell:
                raise DataError(
                    f"{path}:{number}: {name!r} is empty; fill in a value or remove the row"
                )
    return numbers, columns
