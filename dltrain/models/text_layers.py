"""What the text models share: tokens, word vectors, and pooling over the valid positions."""

from __future__ import annotations

from io import TextIOWrapper
from math import isfinite
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.checkpoints.atomic_files import open_named
from dltrain.core.data_spec import DataSpec, TextInputs
from dltrain.core.errors import OptionError, UsageError

PoolingName = Literal["last", "max", "mean", "attention"]

_TAKES_INSTEAD = {
    "image": "pictures, which model 'cnn' takes",
    "table": "rows of a table, which model 'mlp' takes",
}


def text_inputs(spec: DataSpec, model: str) -> TextInputs:
    """The data's text inputs.

    Raises:
        UsageError: The data is not text.
    """
    if spec.inputs.kind != "text":
        raise UsageError(
            f"model {model!r} needs text, and this data has {_TAKES_INSTEAD[spec.inputs.kind]}"
        )
    return spec.inputs


def padded(tokens: Tensor, length: int, embedding: nn.Embedding) -> tuple[Tensor, Tensor]:
    """Pad (batch, tokens) int64 at the end to at least `length` tokens.

    Returns:
        The tokens, and (batch, tokens) bool: where they are no padding of the embedding.
    """
    padding = embedding.padding_idx
    assert padding is not None
    tokens = F.pad(tokens, (0, max(length - tokens.shape[1], 0)), value=padding)
    return tokens, tokens != padding


def reverse_valid(features: Tensor, lengths: Tensor) -> Tensor:
    """Turns each sequence of (batch, tokens, width) around; the padding stays at the end.

    Args:
        features: (batch, tokens, width).
        lengths: (batch,) int64, the valid positions of each sequence.
    """
    positions = torch.arange(features.shape[1], device=features.device)
    last = lengths[:, None] - 1
    source = torch.where(positions <= last, last - positions, positions)
    return features.gather(1, source[:, :, None].expand_as(features))


def mean_over(features: Tensor, valid: Tensor) -> Tensor:
    """Mean of (batch, tokens, width) over the valid positions, (batch, width); 0 without any."""
    total = features.masked_fill(~valid[:, :, None], 0).sum(dim=1)
    return total / valid.sum(dim=1, keepdim=True).clamp(min=1)


def max_over(features: Tensor, valid: Tensor) -> Tensor:
    """Maximum of (batch, tokens, width) over the valid positions, (batch, width); 0 without any."""
    lowest = torch.finfo(features.dtype).min
    highest = features.masked_fill(~valid[:, :, None], lowest).amax(dim=1)
    return highest.masked_fill(~valid.any(dim=1, keepdim=True), 0)


class Pooling(nn.Module):
    """(batch, tokens, width) to (batch, width) over the valid positions; 0 where there are none.

    Args:
        name: last is where each direction has read the whole sequence: the last valid position,
            and the first of a backward one; attention is a learned weighted mean (Yang et al.,
            2016, section 2.2).
        width: Of the features.
        bidirectional: Whether the second half of the features was computed from end to start.
    """

    def __init__(self, name: PoolingName, width: int, bidirectional: bool) -> None:
        super().__init__()
        self.name = name
        self.bidirectional = bidirectional
        if name == "attention":
            self.score: nn.Sequential = nn.Sequential(
                nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False)
            )

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """Pools (batch, tokens, width) where `valid`, (batch, tokens), is true."""
        if self.name == "max":
            return max_over(features, valid)
        if self.name == "mean":
            return mean_over(features, valid)
        if self.name == "attention":
            scores = self.score(features).squeeze(2)
            # The lowest finite number instead of -inf, whose softmax over padding alone is NaN.
            scores = scores.masked_fill(~valid, torch.finfo(scores.dtype).min)
            weights = scores.softmax(dim=1).masked_fill(~valid, 0)
            return (weights[:, :, None] * features).sum(dim=1)
        last = (valid.sum(dim=1) - 1).clamp(min=0)
        end = features.gather(1, last[:, None, None].expand(-1, 1, features.shape[2])).squeeze(1)
        if self.bidirectional:
            half = features.shape[2] // 2
            end = torch.cat([end[:, :half], features[:, 0, half:]], dim=1)
        return end.masked_fill(~valid.any(dim=1, keepdim=True), 0)


def word_embedding(
    inputs: TextInputs, size: int, vectors: str | None = None, freeze: bool = False
) -> nn.Embedding:
    """(batch, tokens) int64 -> (batch, tokens, size), zeros for padding.

    Args:
        inputs: Where the vocabulary is.
        size: Numbers a token.
        vectors: File of word vectors in GloVe's text format.
        freeze: Keep them as they are.

    Raises:
        OptionError: The file can't be read or does not fit, or there is none to freeze.
    """
    embedding = nn.Embedding(len(inputs.vocabulary), size, padding_idx=inputs.padding)
    if vectors is not None:
        _copy_vectors(Path(vectors), inputs, embedding.weight.data)
    if freeze:
        if vectors is None:
            raise OptionError("freeze_embeddings", "'freeze_embeddings: true' needs 'embeddings'")
        embedding.weight.requires_grad_(False)
    return embedding


def _copy_vectors(path: Path, inputs: TextInputs, weight: Tensor) -> None:
    """Overwrites the rows of the words that the file has a vector for."""
    rows = {word: row for row, word in enumerate(inputs.vocabulary) if row != inputs.padding}
    size = weight.shape[1]
    num_found = 0
    try:
        # Words may hold other line separators, a carriage return too: only \n ends a line here.
        with TextIOWrapper(open_named(path), encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                # From the right, since a few of GloVe's words hold spaces.
                word, *numbers = line.rstrip().rsplit(" ", size)
                if len(numbers) != size or (number == 1 and " " in word):
                    raise OptionError(
                        "embeddings",
                        f"{path}:{number}: expected a word and {size} numbers, as embedding_size "
                        f"says, and the line has {len(line.split()) - 1} after its first word",
                    )
                if word in rows:
                    weight[rows[word]] = _vector(numbers, f"{path}:{number}")
                    num_found += 1
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError("embeddings", f"{path}: can't be read: {error}") from error
    if not num_found:
        raise OptionError("embeddings", f"{path}: has no word of the data's vocabulary")


def _vector(numbers: list[str], where: str) -> Tensor:
    try:
        values = [float(number) for number in numbers]
    except ValueError as error:
        raise OptionError("embeddings", f"{where}: not a number: {error}") from error
    if not all(map(isfinite, values)):
        raise OptionError("embeddings", f"{where}: expected finite numbers")
    return torch.tensor(values)
