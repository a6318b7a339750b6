"""Config suggestions for labelled texts, and for running text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dltrain.autoconfig.column_types import MAX_CLASSES, UNSPACED, ColumnSummary, could_be_classes
from dltrain.autoconfig.config_draft import Explained, Suggestion
from dltrain.autoconfig.target import Target
from dltrain.autoconfig.training import (
    classification,
    format_class_counts,
    holdout_options,
    model_selection,
    require_enough,
    require_samples,
    training_length,
)
from dltrain.core.data_spec import TextInputs
from dltrain.core.errors import DataError, shorten
from dltrain.data.labels import sorted_names
from dltrain.data.sst2 import FILES as SST2_FILES
from dltrain.data.sst2 import read_sst2
from dltrain.data.table import Table
from dltrain.data.tokenization import split_text
from dltrain.data.utf8 import normalize_line_ends, read_utf8

MIN_CHARACTERS = 2_000
MAX_RARE_FRACTION = 0.15
"""Maximum fraction of rare tokens for dropping them from the vocabulary."""
LONG_TEXT_TOKENS = 200
"""Number of tokens from which a text is long, and slow to process sequentially."""


def suggest_texts(
    table: Table,
    reading: Mapping[str, str | None],
    columns: Sequence[ColumnSummary],
    target: Target,
) -> Suggestion:
    """Suggest a config for texts with a class each.

    Args:
        table: All columns.
        reading: Options that the file must be read with.
        columns: Columns with the text.
        target: Column with the class.

    Raises:
        DataError: The target is not a class, or a class is too rare.
    """
    path, label = table.path, target.cells.name
    names = [cells.name for cells in columns]
    texts = [" ".join(cells) for cells in zip(*map(table.column, names), strict=True)]
    require_samples(path, len(texts), "texts")
    counts = _class_counts(table, target.cells)
    classes = format_class_counts(counts, "texts")
    data: dict[str, Any] = {
        "name": "text_csv",
        "path": str(path),
        "text": Explained(names, _text_reason(names)),
        "label": label,
        **reading,
    }
    seen = {"text": shorten(", ".join(names), 200), "label": f"{shorten(label)}: {classes}"}
    return _suggestion(data, texts, counts, seen, doubts=target.doubts)


def suggest_sst2(folder: Path) -> Suggestion:
    """Suggest a config for files in the format of SST-2, without a header.

    Raises:
        DataError: A line has another format.
    """
    train = read_sst2(folder / next(iter(SST2_FILES)))
    names = Counter("positive" if target else "negative" for target in train.targets)
    counts = dict(sorted(names.items()))
    data = {"name": "sst2", "root": str(folder)}
    seen = {"files": ", ".join(SST2_FILES), "label": format_class_counts(counts, "texts")}
    return _suggestion(data, train.texts, counts, seen, apart=("validation", "test"))


def _class_counts(table: Table, cells: ColumnSummary) -> dict[str, int]:
    """Return the number of texts of each class, with classes in the data source's order."""
    if cells.kind == "number" and not could_be_classes(cells) and cells.distinct > MAX_CLASSES:
        raise DataError(
            f"{table.path}: expected classes in {cells.name!r}, got {cells.distinct:,} distinct "
            "numbers; select another column with --target, or convert it to classes"
        )
    counts = Counter(cell for cell in table.column(cells.name) if cell)
    require_enough(f"{table.path}: column {cells.name!r}", counts, "texts")
    return {name: counts[name] for name in sorted_names(counts)}


def _text_reason(names: Sequence[str]) -> str:
    return "several columns are joined by a space" if len(names) > 1 else "the text column"


def _suggestion(
    data: dict[str, Any],
    texts: Sequence[str],
    counts: Mapping[str, int],
    seen: dict[str, str],
    *,
    apart: Collection[str] = (),
    doubts: Sequence[str] = (),
) -> Suggestion:
    """Suggest a config for texts with classes from any source.

    Args:
        data: Options of the data source that do not depend on the texts.
        texts: Training texts, before validation and test texts are taken from them.
        counts: Number of texts of each class.
        seen: See `Suggestion`.
        apart: Splits that are not taken from these texts.
        doubts: See `Suggestion`.
    """
    cut, kept = holdout_options(len(texts), "texts", apart=apart)
    inputs = _tokenizer(texts)
    if inputs.tokenizer == "character":
        data["tokenizer"] = Explained("character", "the script has no spaces between words")
    lengths = sorted(len(split_text(text, inputs)) for text in _evenly_spaced(texts))
    middle, long = lengths[len(lengths) // 2], lengths[int(0.95 * (len(lengths) - 1))]
    summary = f"median {middle}, maximum {lengths[-1]:,}"
    if kept >= 2000 and _rare_fraction(texts, inputs) < MAX_RARE_FRACTION:
        data["min_count"] = Explained(2, "tokens that occur once are not informative")
    if long > LONG_TEXT_TOKENS:
        limit = min(2 * LONG_TEXT_TOKENS, -(-long // 50) * 50)
        data["max_tokens"] = Explained(limit, "longer texts are truncated, for fast training")
    chosen = classification(counts, "texts")
    train = training_length(kept, steps=800, max_epochs=30)
    config = {
        "model": _model(kept, middle),
        "data": Explained(
            {**data, **cut},
            f"{format_class_counts(counts, 'texts')}; tokens: {summary}",
        ),
        "loss": chosen["loss"],
        "optimizer": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.05},
        "schedule": {"name": "one_cycle", "warmup": 0.2},
        "metrics": chosen["metrics"],
        "train": {**train, "clip_norm": Explained(1.0, "limits the effect of a single batch")},
        **model_selection(chosen["best"], train["epochs"].value),
    }
    return Suggestion(
        "texts with labels",
        config,
        {"texts": f"{len(texts):,}", **seen, "tokens": summary},
        list(doubts),
    )


def _evenly_spaced(texts: Sequence[str]) -> Sequence[str]:
    """Return up to 5,000 of the texts."""
    return texts[:: -(-len(texts) // 5000)]


def _tokenizer(texts: Sequence[str]) -> TextInputs:
    """Return the tokenizer that suits the script of the texts."""
    looked_at = _evenly_spaced(texts)
    letters = sum(len(text) for text in looked_at)
    unspaced = sum(len(UNSPACED.findall(text)) for text in looked_at)
    return TextInputs("character" if unspaced > letters / 4 else "word", (), lowercase=True)


def _rare_fraction(texts: Sequence[str], inputs: TextInputs) -> float:
    """Return the fraction of tokens whose type occurs at most twice, so once in training."""
    counts = Counter(token for text in texts for token in split_text(text, inputs))
    return sum(count for count in counts.values() if count <= 2) / max(1, counts.total())


def _model(samples: int, tokens: int) -> Explained:
    if samples < 2000 or tokens > LONG_TEXT_TOKENS / 2:
        network = {"name": "text_cnn", "embedding_size": 64, "channels": 64, "dropout": 0.5}
        why = "the texts are long" if samples >= 2000 else f"there are {samples:,} training texts"
        return Explained(network, f"detects words and phrases; fast, and {why}")
    options = {"layers": 1, "bidirectional": True, "pooling": "mean", "dropout": 0.4}
    return Explained({"name": "text_lstm", **options}, "reads each text in both directions")


def suggest_corpus(path: Path) -> Suggestion:
    """Suggest a language model for running text.

    Raises:
        DataError: The text is too short.
    """
    text = normalize_line_ends(read_utf8(path))
    total = len(text)
    if total < MIN_CHARACTERS:
        raise DataError(
            f"{path}: has {total:,} characters; expected at least {MIN_CHARACTERS:,}, preferably "
            "some 100,000"
        )
    window = 128 if total >= 50_000 else 64 if total >= 10_000 else 32
    held = round(0.1 * total)
    windows = (total - held) // window
    width = 256 if total >= 500_000 else 128 if total >= 50_000 else 64
    characters = f"{total:,}, {len(set(text)):,} distinct"
    data = {
        "name": "text_file",
        "path": str(path),
        "window": Explained(window, "characters per training sample"),
        "validation": Explained(0.1, f"the last {held:,} characters, to select the best epoch"),
    }
    train = training_length(windows, steps=2000, max_epochs=40)
    config = {
        "task": Explained("language_model", "predicts the next character"),
        "model": Explained(
            {"name": "text_generator", "hidden_size": width, "dropout": 0.2},
            f"sized for {total:,} characters",
        ),
        "data": Explained(
            data, f"characters: {characters}; `dltrain sample` generates similar text"
        ),
        "loss": "cross_entropy",
        "optimizer": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.01},
        "schedule": {"name": "one_cycle", "warmup": 0.1},
        "metrics": Explained(["accuracy"], "the fraction of characters predicted correctly"),
        "train": {**train, "clip_norm": Explained(1.0, "limits the effect of a single batch")},
        **model_selection("val/loss", train["epochs"].value),
    }
    return Suggestion("running text", config, {"characters": characters})
