"""Text to token ids and back: tokenizers and vocabularies."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from dltrain.checkpoints.atomic_files import read_named
from dltrain.core.data_spec import Inputs, TextInputs
from dltrain.core.errors import DataError, OptionError, UsageError, shorten
from dltrain.core.paths import RESOLVED_PATH, resolve_path
from dltrain.core.protocols import DataContext

TokenizerFile = Annotated[
    str,
    Field(pattern=r"\.json$", description="a tokenizer.json file of the tokenizers library"),
    RESOLVED_PATH,
]
Tokenizer = Literal["word", "character"] | TokenizerFile

SPECIAL_TOKENS = ("<pad>", "<unk>")
"""The first two entries of a vocabulary; see `data_spec.PADDING` and `data_spec.UNKNOWN`."""

WORD = r"(?ws)\p{LB=SA}[\p{LB=SA}\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]*|\S.*?\b"
"""Pattern of the `regex` package for tokenizer `word`: what stands between two Unicode word
boundaries (UAX #29), without white space. Combining marks belong to the letter before them, an
emoji sequence is one token, and so are "don't" and "3.14". The default rules cut Thai and other
scripts that need a dictionary (line break class SA) between letters; here they stay whole."""

MAX_TOKEN_ID = 2**21
"""Maximum token id of a tokenizer file: the embedding has a row for each id up to the largest."""

PADDING_NAME = re.compile(r"[\[<|]+pad[\]>|]+", re.IGNORECASE)
"""Pattern of padding tokens, for tokenizer files that do not define theirs."""


def text_inputs(
    context: DataContext,
    tokenizer: str,
    *,
    lowercase: bool | None = None,
    max_tokens: int | None = None,
    columns: tuple[str, ...] = ("text",),
) -> TextInputs:
    """Return how texts are tokenized; the vocabulary is empty except that of a tokenizer file.

    Args:
        context: Context of the data source, with the common data directory.
        tokenizer: `word`, `character`, or a file; see `Tokenizer`.
        lowercase: Whether text is converted to lower case first (default: not for a file).
        max_tokens: Maximum number of tokens; longer texts are truncated.
        columns: Columns of a table that contain text.

    Raises:
        OptionError: The file does not exist or is not a tokenizer, its special tokens alone exceed
            `max_tokens`, or the library is not installed.
    """
    if tokenizer in ("word", "character"):
        kind: Any = tokenizer
        lowercase = True if lowercase is None else lowercase
        return TextInputs(kind, (), lowercase, max_tokens, columns=columns)
    (file,) = tokenizer_files(context, tokenizer)
    try:
        definition = read_named(file).decode("utf-8")
        parsed = _load_tokenizer(definition)
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError("tokenizer", f"{file}: can't be read: {error}") from error
    except UsageError as error:
        raise OptionError("tokenizer", str(error)) from error
    except Exception as error:  # the library raises nothing more specific
        raise OptionError("tokenizer", f"{file}: is no tokenizer: {error}") from error
    num_special = parsed.num_special_tokens_to_add(is_pair=False)
    if max_tokens is not None and max_tokens <= num_special:
        raise OptionError(
            "max_tokens",
            f"{max_tokens}; {file} adds {num_special} special tokens to each text: give more",
        )
    try:
        vocabulary, padding, unknown = _file_vocabulary_and_ids(definition, parsed)
    except ValueError as error:
        raise OptionError("tokenizer", f"{file}: {error}") from error
    lowercase = bool(lowercase)
    return TextInputs(
        "file", vocabulary, lowercase, max_tokens, definition, padding, unknown, columns
    )


def verify_tokenizer(inputs: Inputs) -> None:
    """Check that a run's tokenizer file matches the recorded vocabulary and ids.

    Raises:
        ValueError: The content of the file is damaged, or has other ids than recorded.
        UsageError: The library is not installed.
    """
    if not isinstance(inputs, TextInputs) or inputs.tokenizer != "file":
        return
    try:
        parsed = _load_tokenizer(inputs.definition)
        ids = _file_vocabulary_and_ids(inputs.definition, parsed)
    except UsageError:
        raise
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(f"inputs.definition is no tokenizer: {error}") from error
    recorded = (inputs.vocabulary, inputs.padding, inputs.unknown)
    for name, value, own in zip(("vocabulary", "padding", "unknown"), recorded, ids, strict=True):
        if value != own:
            raise ValueError(f"inputs.{name} is not that of inputs.definition")


def tokenizer_files(context: DataContext, tokenizer: str) -> tuple[Path, ...]:
    """Return the tokenizer's file, in the working directory or in the common data directory."""
    if tokenizer in ("word", "character"):
        return ()
    return (resolve_path(tokenizer, context.root),)


def _file_vocabulary_and_ids(
    definition: str, parsed: Any
) -> tuple[tuple[str, ...], int, int | None]:
    """Return vocabulary, padding id and unknown id of a tokenizer file.

    Raises:
        ValueError: An id is too large.
    """
    largest = max(parsed.get_vocab(with_added_tokens=True).values(), default=0)
    if largest > MAX_TOKEN_ID:
        message = f"has a token with the id {largest:,}; at most {MAX_TOKEN_ID:,} is accepted"
        raise ValueError(message)
    saved, vocabulary = json.loads(definition), _file_vocabulary(parsed)
    padding = _file_padding_id(saved, vocabulary)
    if padding == len(vocabulary):  # without a padding token, append one
        vocabulary = (*vocabulary, SPECIAL_TOKENS[0])
    return vocabulary, padding, _file_unknown_id(saved, parsed)


def _file_vocabulary(parsed: Any) -> tuple[str, ...]:
    """Return the tokens by id, including added ones; unused ids get a placeholder."""
    tokens = {number: token for token, number in parsed.get_vocab(with_added_tokens=True).items()}
    return tuple(tokens.get(n, f"<unused {n}>") for n in range(max(tokens, default=-1) + 1))


def _file_padding_id(saved: dict[str, Any], vocabulary: Sequence[str]) -> int:
    """Return the padding id: as defined, by the token's name, or the id after the last."""
    if (padding := saved.get("padding")) and padding["pad_token"] in vocabulary:
        return vocabulary.index(padding["pad_token"])
    named = (n for n, token in enumerate(vocabulary) if PADDING_NAME.fullmatch(token))
    return next(named, len(vocabulary))


def _file_unknown_id(saved: dict[str, Any], parsed: Any) -> int | None:
    """Return the id of the unknown token; None if there is none."""
    model = saved["model"]
    if model.get("unk_id") is not None:
        return model["unk_id"]
    token = model.get("unk_token")
    return None if token is None else parsed.token_to_id(token)


def split_text(text: str, inputs: TextInputs) -> list[str]:
    """Split a text into all of its tokens, without special tokens.

    >>> split_text("Don't panic!", TextInputs("word", (), lowercase=True))
    ["don't", 'panic', '!']
    """
    text = text.lower() if inputs.lowercase else text
    if inputs.tokenizer == "file":
        return _encode_with_file(inputs, text, special=False).tokens
    return list(text) if inputs.tokenizer == "character" else _word_pattern().findall(text)


@cache
def _word_pattern() -> Any:
    import regex

    return regex.compile(WORD)


def decode(inputs: TextInputs, ids: Sequence[int]) -> str:
    """Decode token ids to text, without padding and a tokenizer file's special tokens."""
    ids = [number for number in ids if number != inputs.padding]
    if inputs.tokenizer == "file":
        return _load_tokenizer(inputs.definition).decode(ids)
    between = "" if inputs.tokenizer == "character" else " "
    return between.join(inputs.vocabulary[number] for number in ids)


def decode_stream(inputs: TextInputs, before: Sequence[int], ids: Iterable[int]) -> Iterator[str]:
    """Yield the text that each token id appends to the preceding ones.

    A byte-level tokenizer may need several tokens for one character: all but the last yield "".

    Args:
        inputs: Tokenizer and vocabulary.
        before: Ids that precede; at least one.
        ids: Ids to decode.
    """
    # Decoders treat the first token of a text differently, so the previous one is prepended.
    decoded, new = [before[-1]], []
    for number in ids:
        new.append(number)
        known, text = decode(inputs, decoded), decode(inputs, [*decoded, *new])
        if text.endswith("\N{REPLACEMENT CHARACTER}") and len(new) < 8:
            yield ""
            continue
        yield text[len(known) :]
        decoded, new = new, []


@cache
def _load_tokenizer(definition: str, max_tokens: int | None = None) -> Any:
    """Build the tokenizer of a file's content; it truncates at `max_tokens` and does not pad."""
    try:
        from tokenizers import Tokenizer as LibraryTokenizer
    except ImportError as error:
        raise UsageError(
            "a tokenizer file needs the tokenizers library: pip install 'dltrain[tokenizers]'"
        ) from error
    parsed = LibraryTokenizer.from_str(definition)
    parsed.no_padding()
    if max_tokens is None:
        parsed.no_truncation()
    else:
        parsed.enable_truncation(max_tokens)
    return parsed


def _encode_with_file(inputs: TextInputs, text: str, *, special: bool) -> Any:
    """Encode a text with a tokenizer file.

    Args:
        inputs: Inputs with a tokenizer file.
        text: Text to encode.
        special: Whether to add special tokens and to truncate the text.

    Raises:
        DataError: The tokenizer can't encode the text because it lacks its own unknown token.
    """
    parsed = _load_tokenizer(inputs.definition, inputs.max_tokens if special else None)
    try:
        return parsed.encode(text, add_special_tokens=special)
    except Exception as error:  # the library raises nothing more specific
        message = f"the tokenizer can't encode {shorten(text)!r}: {error}"
        raise DataError(message) from error


def fit_vocabulary(
    inputs: TextInputs,
    tokens: Iterable[list[str]],
    min_count: int = 1,
    max_size: int | None = None,
) -> TextInputs:
    """Return the inputs with the vocabulary of the training texts, or of the tokenizer file.

    Args:
        inputs: See `text_inputs`.
        tokens: See `build_vocabulary`; ignored with a tokenizer file.
        min_count: See `build_vocabulary`.
        max_size: See `build_vocabulary`.

    Raises:
        OptionError: The vocabulary of a tokenizer file can't be reduced.
    """
    if inputs.tokenizer != "file":
        return replace(inputs, vocabulary=build_vocabulary(tokens, min_count, max_size))
    for name, given in (("min_count", min_count != 1), ("max_size", max_size is not None)):
        if given:
            raise OptionError(
                name, "a tokenizer file has a vocabulary of its own; remove this option"
            )
    return inputs


def build_vocabulary(
    tokens: Iterable[list[str]], min_count: int = 1, max_size: int | None = None
) -> tuple[str, ...]:
    """Return padding, unknown, then the tokens of the training texts by decreasing frequency.

    >>> build_vocabulary([["a", "b"], ["b"]])
    ('<pad>', '<unk>', 'b', 'a')

    Args:
        tokens: Tokens of each text.
        min_count: Minimum frequency of a token.
        max_size: Maximum size of the vocabulary, including its two special entries.
    """
    counts = Counter(token for text in tokens for token in text)
    for special in SPECIAL_TOKENS:
        counts.pop(special, None)
    frequent = [token for token, count in counts.items() if count >= min_count]
    frequent.sort(key=lambda token: (-counts[token], token))
    limit = None if max_size is None else max(0, max_size - len(SPECIAL_TOKENS))
    return (*SPECIAL_TOKENS, *frequent[:limit])


class Encoder:
    """Encoder from texts to token ids.

    >>> Encoder(TextInputs("character", ("<pad>", "<unk>", "a", "b")))("abc").tolist()
    [2, 3, 1]

    Args:
        inputs: Tokenizer and vocabulary.
    """

    def __init__(self, inputs: TextInputs) -> None:
        self.inputs = inputs
        self._ids = {token: number for number, token in enumerate(inputs.vocabulary)}

    def __call__(self, text: str) -> Tensor:
        """Return (tokens,) int64, truncated, with a tokenizer file's special tokens.

        A text without tokens becomes one unknown token, or one padding token if there is none.
        """
        if self.inputs.tokenizer == "file":
            lowered = text.lower() if self.inputs.lowercase else text
            ids = _encode_with_file(self.inputs, lowered, special=True).ids
        else:
            ids = self.encode_untruncated(text)[: self.inputs.max_tokens]
        unknown = self.inputs.unknown
        return torch.tensor(ids or [self.inputs.padding if unknown is None else unknown])

    def encode_untruncated(self, text: str) -> list[int]:
        """Return the ids of all tokens, without special tokens."""
        if self.inputs.tokenizer == "file":
            return _encode_with_file(self.inputs, text, special=False).ids
        unknown = self.inputs.unknown
        assert unknown is not None
        return [self._ids.get(token, unknown) for token in split_text(text, self.inputs)]
