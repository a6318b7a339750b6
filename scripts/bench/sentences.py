"""SST-2: words to numbers, and batches of sentences that are about equally long."""

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
"""Batches among which sentences are sorted by length, as dltrain does."""

Sentence = tuple[Tensor, int]


@dataclass(frozen=True)
class Sentences:
    """Both splits, (tokens,) int64 and class each; the vocabulary is the training split's."""

    train: list[Sentence]
    test: list[Sentence]
    vocabulary_size: int


@cache
def read(root: Path) -> Sentences:
    """Words as dltrain's tokenizer `word` finds them; those in the training split twice or more."""
    train, test = (_lines(root / "sst2" / f"{name}.tsv") for name in ("train", "test"))
    counts = Counter(word for words, _ in train for word in words)
    frequent = [word for word, count in counts.items() if count >= MIN_COUNT]
    numbers = {word: number for number, word in enumerate(frequent, UNKNOWN + 1)}

    def encoded(lines: list[tuple[list[str], int]]) -> list[Sentence]:
        return [(torch.tensor([numbers.get(w, UNKNOWN) for w in words]), c) for words, c in lines]

    return Sentences(encoded(train), encoded(test), len(numbers) + UNKNOWN + 1)


def _lines(path: Path) -> list[tuple[list[str], int]]:
    lines = []
    for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        text, _, label = line.rpartition("\t")
        lines.append((WORD.findall(text.lower()), int(label)))
    return lines


def padded(sentences: Sequence[Sentence]) -> tuple[Tensor, Tensor]:
    """(batch, tokens of the longest) int64 and (batch,) int64."""
    tokens, labels = zip(*sentences, strict=True)
    return pad_sequence(tokens, batch_first=True, padding_value=PADDING), torch.tensor(labels)


class Buckets:
    """Shuffled batches of about equally long sentences, each padded to its own longest.

    Args:
        sentences: A split.
        batch_size: Sentences a batch.
        device: Where they are kept.
    """

    def __init__(self, sentences: Sequence[Sentence], batch_size: int, device: str) -> None:
        tokens, labels = padded(sentences)
        self.lengths = torch.tensor([len(words) for words, _ in sentences])
        self.tokens, self.labels = tokens.to(device), labels.to(device)
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Batches an epoch."""
        return math.ceil(len(self.lengths) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """An epoch."""
        plan: list[Tensor] = []
        for chunk in torch.randperm(len(self.lengths)).split(self.batch_size * CHUNK):
            plan += chunk[self.lengths[chunk].argsort()].split(self.batch_size)
        for number in torch.randperm(len(plan)).tolist():
            index = plan[number]
            longest = int(self.lengths[index].max())
            place = index.to(self.labels.device)
            yield self.tokens[:, :longest][place], self.labels[place]
