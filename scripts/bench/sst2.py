"""SST-2: tokenization, and length-bucketed batches of sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import regex
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

PADDING, UNKNOWN = 0, 1
MIN_COUNT = 2
WORD = regex.compile(r"(?w)\S.*?\b")
CHUNK = 50
"""Batches per chunk within which sentences are sorted by length, as in dltrain."""

Sentence = tuple[Tensor, int]
"""Token ids of shape (tokens,), int64, and class."""


@dataclass(frozen=True)
class Sentences:
    """Training and test split, with the vocabulary of the training split."""

    train: list[Sentence]
    test: list[Sentence]
    vocabulary_size: int


@cache
def read(root: Path) -> Sentences:
    """Read both splits.

    Sentences are split like dltrain's tokenizer `word` does; the vocabulary holds the words that
    occur at least twice in the training split.
    """
    train, test = (_lines(root / "sst2" / f"{name}.tsv") for name in ("train", "test"))
    counts = Counter(word for words, _ in train for word in words)
    frequent = [word for word, count in counts.items() if count >= MIN_COUNT]
    ids = {word: token for token, word in enumerate(frequent, UNKNOWN + 1)}

    def encode(lines: list[tuple[list[str], int]]) -> list[Sentence]:
        return [(torch.tensor([ids.get(w, UNKNOWN) for w in words]), c) for words, c in lines]

    return Sentences(encode(train), encode(test), len(ids) + UNKNOWN + 1)


def _lines(path: Path) -> list[tuple[list[str], int]]:
    lines = []
    for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        text, _, label = line.rpartition("\t")
        lines.append((WORD.findall(text.lower()), int(label)))
    return lines


def pad_batch(sentences: Sequence[Sentence]) -> tuple[Tensor, Tensor]:
    """Collate sentences.

    Returns:
        Token ids of shape (batch, longest sentence), int64, and labels of shape (batch,), int64.
    """
    tokens, labels = zip(*sentences, strict=True)
    return pad_sequence(tokens, batch_first=True, padding_value=PADDING), torch.tensor(labels)


class LengthBuckets:
    """Shuffled batches of sentences of similar length, each padded to its longest sentence.

    Args:
        sentences: Sentences of a split.
        batch_size: Sentences per batch.
        device: Device on which the sentences are stored.
    """

    def __init__(self, sentences: Sequence[Sentence], batch_size: int, device: str) -> None:
        tokens, labels = pad_batch(sentences)
        self.lengths = torch.tensor([len(words) for words, _ in sentences])
        self.tokens, self.labels = tokens.to(device), labels.to(device)
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return math.ceil(len(self.lengths) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch."""
        batches: list[Tensor] = []
        for chunk in torch.randperm(len(self.lengths)).split(self.batch_size * CHUNK):
            batches += chunk[self.lengths[chunk].argsort()].split(self.batch_size)
        for number in torch.randperm(len(batches)).tolist():
            index = batches[number]
            longest = int(self.lengths[index].max())
            index = index.to(self.labels.device)
            yield self.tokens[:, :longest][index], self.labels[index]
