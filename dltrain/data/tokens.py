"""Text to numbers: tokenizers and vocabularies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from dltrain.spec import UNKNOWN, TextInputs

Tokenizer = Literal["word", "character"]

SPECIAL = ("<pad>", "<unk>")
"""The first two entries of a vocabulary; see `spec.PADDING` and `spec.UNKNOWN`."""

# Runs of letters and digits, with apostrophes inside or before them ("don't", "'s"), or a sign.
_WORD = re.compile(r"'?\w+(?:['-]\w+)*|[^\w\s]")


def split_text(text: str, tokenizer: Tokenizer, lowercase: bool) -> list[str]:
    """The tokens of a text."""
    text = text.lower() if lowercase else text
    return list(text) if tokenizer == "character" else _WORD.findall(text)


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
        tokens = split_text(text, self.inputs.tokenizer, self.inputs.lowercase)
        numbers = [self._numbers.get(token, UNKNOWN) for token in tokens[: self.inputs.max_tokens]]
        return torch.tensor(numbers or [UNKNOWN])
