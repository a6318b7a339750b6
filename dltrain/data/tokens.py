"""Text to numbers: tokenizers and vocabularies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from dltrain.errors import OptionError, UsageError
from dltrain.paths import LOCATED, located
from dltrain.spec import UNKNOWN, DataContext, TextInputs

TokenizerFile = Annotated[
    str,
    Field(pattern=r"\.json$", description="a tokenizer.json file of the tokenizers library"),
    LOCATED,
]
Tokenizer = Literal["word", "character"] | TokenizerFile

SPECIAL = ("<pad>", "<unk>")
"""The first two entries of a vocabulary; see `spec.PADDING` and `spec.UNKNOWN`."""

# Runs of letters and digits, with apostrophes inside or before them ("don't", "'s"), or a sign.
WORD = re.compile(r"'?\w+(?:['-]\w+)*|[^\w\s]")
"""What tokenizer `word` finds in a text, one after another."""


def text_inputs(
    context: DataContext, tokenizer: str, *, lowercase: bool = False, max_tokens: int | None = None
) -> TextInputs:
    """How texts are split, with no vocabulary yet.

    Args:
        context: Where a file may be, beside the working directory.
        tokenizer: `word`, `character`, or a file; see `Tokenizer`.
        lowercase: Whether text is lowercased first.
        max_tokens: Longer texts are cut.

    Raises:
        OptionError: There is no such file, it is no tokenizer, or the library is not installed.
    """
    if tokenizer in ("word", "character"):
        kind: Any = tokenizer
        return TextInputs(kind, (), lowercase, max_tokens)
    (file,) = tokenizer_files(context, tokenizer)
    try:
        definition = file.read_text(encoding="utf-8")
        _parsed(definition)
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError("tokenizer", f"{file}: can't be read: {error}") from error
    except UsageError as error:
        raise OptionError("tokenizer", str(error)) from error
    except Exception as error:  # the library raises nothing more specific
        raise OptionError("tokenizer", f"{file}: is no tokenizer: {error}") from error
    return TextInputs("file", (), lowercase, max_tokens, definition)


def tokenizer_files(context: DataContext, tokenizer: str) -> tuple[Path, ...]:
    """The tokenizer's file, from the working directory or else from the common data folder."""
    if tokenizer in ("word", "character"):
        return ()
    return (located(tokenizer, context.root),)


def split_text(text: str, inputs: TextInputs) -> list[str]:
    """The tokens of a text, all of them."""
    text = text.lower() if inputs.lowercase else text
    if inputs.tokenizer == "file":
        return _parsed(inputs.definition).encode(text, add_special_tokens=False).tokens
    return list(text) if inputs.tokenizer == "character" else WORD.findall(text)


def joined(inputs: TextInputs, tokens: Sequence[str]) -> str:
    """The text that tokens make."""
    if inputs.tokenizer == "file":
        decoder = _parsed(inputs.definition).decoder
        return " ".join(tokens) if decoder is None else decoder.decode(list(tokens))
    return ("" if inputs.tokenizer == "character" else " ").join(tokens)


@cache
def _parsed(definition: str) -> Any:
    """The tokenizer that a file's content defines; it neither pads nor cuts."""
    try:
        from tokenizers import Tokenizer as LibraryTokenizer
    except ImportError as error:
        raise UsageError(
            "a tokenizer file needs the tokenizers library: pip install 'dltrain[tokenizers]'"
        ) from error
    parsed = LibraryTokenizer.from_str(definition)
    parsed.no_padding()
    parsed.no_truncation()
    return parsed


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
    for special in SPECIAL:
        counts.pop(special, None)
    frequent = [token for token, count in counts.items() if count >= min_count]
    frequent.sort(key=lambda token: (-counts[token], token))
    limit = None if max_size is None else max(0, max_size - len(SPECIAL))
    return (*SPECIAL, *frequent[:limit])


class Encoder:
    """Texts to the numbers of their tokens.

    Args:
        inputs: Tokenizer and vocabulary.
    """

    def __init__(self, inputs: TextInputs) -> None:
        self.inputs = inputs
        self._numbers = {token: number for number, token in enumerate(inputs.vocabulary)}

    def __call__(self, text: str) -> Tensor:
        """(tokens,) int64, one `UNKNOWN` for a text without a token."""
        tokens = split_text(text, self.inputs)
        numbers = [self._numbers.get(token, UNKNOWN) for token in tokens[: self.inputs.max_tokens]]
        return torch.tensor(numbers or [UNKNOWN])
