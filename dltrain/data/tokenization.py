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
"""Of a tokenizer file: a vocabulary, and an embedding, have a row for each id up to the largest."""

PADDING_NAME = re.compile(r"[\[<|]+pad[\]>|]+", re.IGNORECASE)
"""What tokenizer files call their padding token, where they do not say which one it is."""


def text_inputs(
    context: DataContext,
    tokenizer: str,
    *,
    lowercase: bool | None = None,
    max_tokens: int | None = None,
    columns: tuple[str, ...] = ("text",),
) -> TextInputs:
    """How texts are tokenized; the vocabulary is empty unless a tokenizer file has one.

    Args:
        context: Where a file may be, beside the working directory.
        tokenizer: `word`, `character`, or a file; see `Tokenizer`.
        lowercase: Whether text is lowercased first; by default unless a file's own rules say so.
        max_tokens: Longer texts are truncated to this many tokens.
        columns: Columns of a table that hold a text.

    Raises:
        OptionError: There is no such file, it is no tokenizer, its special tokens alone are more
            than `max_tokens`, or the library is not installed.
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
    """Looks whether texts of a run still are what its tokenizer file makes of them.

    Raises:
        ValueError: The content of the file is damaged, or has other ids than the run has recorded.
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
    """The tokenizer's file, from the working directory or else from the common data folder."""
    if tokenizer in ("word", "character"):
        return ()
    return (resolve_path(tokenizer, context.root),)


def _file_vocabulary_and_ids(
    definition: str, parsed: Any
) -> tuple[tuple[str, ...], int, int | None]:
    """Vocabulary, id of the padding, and id of the unknown token of a tokenizer file.

    Raises:
        ValueError: An id is too large.
    """
    largest = max(parsed.get_vocab(with_added_tokens=True).values(), default=0)
    if largest > MAX_TOKEN_ID:
        message = f"has a token with the id {largest:,}; at most {MAX_TOKEN_ID:,} is accepted"
        raise ValueError(message)
    saved, vocabulary = json.loads(definition), _file_vocabulary(parsed)
    padding = _file_padding_id(saved, vocabulary)
    if padding == len(vocabulary):  # a tokenizer without padding gets a token behind its own
        vocabulary = (*vocabulary, SPECIAL_TOKENS[0])
    return vocabulary, padding, _file_unknown_id(saved, parsed)


def _file_vocabulary(parsed: Any) -> tuple[str, ...]:
    """The tokens by id, added ones included; an id that no token has gets a name of its own."""
    tokens = {number: token for token, number in parsed.get_vocab(with_added_tokens=True).items()}
    return tuple(tokens.get(n, f"<unused {n}>") for n in range(max(tokens, default=-1) + 1))


def _file_padding_id(saved: dict[str, Any], vocabulary: Sequence[str]) -> int:
    """Id of the padding: as the file says, by its token's name, or else the id after the last."""
    if (padding := saved.get("padding")) and padding["pad_token"] in vocabulary:
        return vocabulary.index(padding["pad_token"])
    named = (n for n, token in enumerate(vocabulary) if PADDING_NAME.fullmatch(token))
    return next(named, len(vocabulary))


def _file_unknown_id(saved: dict[str, Any], parsed: Any) -> int | None:
    """Id of the unknown token; None where the tokenizer has none."""
    model = saved["model"]
    if model.get("unk_id") is not None:
        return model["unk_id"]
    token = model.get("unk_token")
    return None if token is None else parsed.token_to_id(token)


def split_text(text: str, inputs: TextInputs) -> list[str]:
    """The tokens of a text, all of them, without special ones."""
    text = text.lower() if inputs.lowercase else text
    if inputs.tokenizer == "file":
        return _encode_with_file(inputs, text, special=False).tokens
    return list(text) if inputs.tokenizer == "character" else _word_pattern().findall(text)


@cache
def _word_pattern() -> Any:
    import regex

    return regex.compile(WORD)


def decode(inputs: TextInputs, ids: Sequence[int]) -> str:
    """The text of token ids, without the padding and a tokenizer file's special tokens."""
    ids = [number for number in ids if number != inputs.padding]
    if inputs.tokenizer == "file":
        return _load_tokenizer(inputs.definition).decode(ids)
    between = "" if inputs.tokenizer == "character" else " "
    return between.join(inputs.vocabulary[number] for number in ids)


def decode_stream(inputs: TextInputs, before: Sequence[int], ids: Iterable[int]) -> Iterator[str]:
    """The text that each token id adds to those before it.

    A tokenizer of bytes may need several tokens for one character: those before the last add "".

    Args:
        inputs: Tokenizer and vocabulary.
        before: What the ids follow; at least one.
        ids: One after another.
    """
    # A decoder treats the first token of a text apart, so the one before stays in front.
    told, new = [before[-1]], []
    for number in ids:
        new.append(number)
        known, text = decode(inputs, told), decode(inputs, [*told, *new])
        if text.endswith("\N{REPLACEMENT CHARACTER}") and len(new) < 8:
            yield ""
            continue
        yield text[len(known) :]
        told, new = new, []


@cache
def _load_tokenizer(definition: str, max_tokens: int | None = None) -> Any:
    """The tokenizer that a file's content defines; cuts at `max_tokens` and never pads."""
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
    """What the library makes of a text.

    Args:
        inputs: Of a tokenizer file.
        text: Any.
        special: Whether the file's special tokens are added, and the text is truncated.

    Raises:
        DataError: The tokenizer can't encode it, for it lacks its own unknown token.
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
    """The inputs with the vocabulary of training texts; that of a tokenizer file is the file's.

    Args:
        inputs: See `text_inputs`.
        tokens: See `build_vocabulary`; not looked at with a tokenizer file.
        min_count: See `build_vocabulary`.
        max_size: See `build_vocabulary`.

    Raises:
        OptionError: A tokenizer file's vocabulary was asked to be smaller.
    """
    if inputs.tokenizer != "file":
        return replace(inputs, vocabulary=build_vocabulary(tokens, min_count, max_size))
    for name, given in (("min_count", min_count != 1), ("max_size", max_size is not None)):
        if given:
            raise OptionError(
                name, "a tokenizer file has a vocabulary of its own; leave this option out"
            )
    return inputs


def build_vocabulary(
    tokens: Iterable[list[str]], min_count: int = 1, max_size: int | None = None
) -> tuple[str, ...]:
    """Padding, unknown, then the tokens of the training texts, the most frequent first.

    Args:
        tokens: Of each text.
        min_count: Rarer tokens are left out.
        max_size: The longest that the vocabulary may be, its two special entries included.
    """
    counts = Counter(token for text in tokens for token in text)
    for special in SPECIAL_TOKENS:
        counts.pop(special, None)
    frequent = [token for token, count in counts.items() if count >= min_count]
    frequent.sort(key=lambda token: (-counts[token], token))
    limit = None if max_size is None else max(0, max_size - len(SPECIAL_TOKENS))
    return (*SPECIAL_TOKENS, *frequent[:limit])


class Encoder:
    """Texts to the ids of their tokens.

    Args:
        inputs: Tokenizer and vocabulary.
    """

    def __init__(self, inputs: TextInputs) -> None:
        self.inputs = inputs
        self._ids = {token: number for number, token in enumerate(inputs.vocabulary)}

    def __call__(self, text: str) -> Tensor:
        """(tokens,) int64, with a tokenizer file's special tokens; truncated.

        A text without any token is one unknown token, or one of padding where there is none.
        """
        if self.inputs.tokenizer == "file":
            lowered = text.lower() if self.inputs.lowercase else text
            ids = _encode_with_file(self.inputs, lowered, special=True).ids
        else:
            ids = self.encode_untruncated(text)[: self.inputs.max_tokens]
        unknown = self.inputs.unknown
        return torch.tensor(ids or [self.inputs.padding if unknown is None else unknown])

    def encode_untruncated(self, text: str) -> list[int]:
        """Ids of all tokens of running text, without special tokens."""
        if self.inputs.tokenizer == "file":
            return _encode_with_file(self.inputs, text, special=False).ids
        unknown = self.inputs.unknown
        assert unknown is not None
        return [self._ids.get(token, unknown) for token in split_text(text, self.inputs)]
