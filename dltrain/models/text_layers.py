"""Parts shared by the text models: padding, word vectors, pooling over valid positions."""

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
    "image": "images, which model 'cnn' takes",
    "table": "rows of a table, which model 'mlp' takes",
}


def text_inputs(spec: DataSpec, model: str) -> TextInputs:
    """Return the text inputs of the data.

    Raises:
        UsageError: The data is not text.
    """
    if spec.inputs.kind != "text":
        raise UsageError(
            f"model {model!r} expected text, and this data has {_TAKES_INSTEAD[spec.inputs.kind]}"
        )
    return spec.inputs


def padded(tokens: Tensor, length: int, embedding: nn.Embedding) -> tuple[Tensor, Tensor]:
    """Pad (batch, tokens) int64 at the end to at least `length` tokens.

    Returns:
        The tokens, and (batch, tokens) bool: False where they are padding.
    """
    padding = embedding.padding_idx
    assert padding is not None
    tokens = F.pad(tokens, (0, max(length - tokens.shape[1], 0)), value=padding)
    return tokens, tokens != padding


def reverse_valid(features: Tensor, lengths: Tensor) -> Tensor:
    """Reverse each sequence of (batch, tokens, width); the padding stays at the end.

    Args:
        features: (batch, tokens, width).
        lengths: (batch,) int64, the number of valid positions of each sequence.
    """
    positions = torch.arange(features.shape[1], device=features.device)
    last = lengths[:, None] - 1
    source = torch.where(positions <= last, last - positions, positions)
    return features.gather(1, source[:, :, None].expand_as(features))


def mean_over(features: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over the valid positions, (batch, width); 0 without any."""
    total = features.masked_fill(~valid[:, :, None], 0).sum(dim=1)
    return total / valid.sum(dim=1, keepdim=True).clamp(min=1)


def max_over(features: Tensor, valid: Tensor) -> Tensor:
    """Return the maximum over the valid positions, (batch, width); 0 without any."""
    lowest = torch.finfo(features.dtype).min
    highest = features.masked_fill(~valid[:, :, None], lowest).amax(dim=1)
    return highest.masked_fill(~valid.any(dim=1, keepdim=True), 0)


class Pooling(nn.Module):
    """Reduction of (batch, tokens, width) over valid positions to (batch, width); 0 without any.

    Args:
        name: last is the position where a direction has read the whole sequence: the last valid
            one, or the first of the backward direction; attention is a learned weighted mean (Yang
            et al., 2016, section 2.2).
        width: Width of the features.
        bidirectional: Whether the second half of the features is of the backward direction.
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
        """Reduce (batch, tokens, width) where `valid`, (batch, tokens), is true."""
        if self.name == "max":
            return max_over(features, valid)
        if self.name == "mean":
            return mean_over(features, valid)
        if self.name == "attention":
            scores = self.score(features).squeeze(2)
            # The lowest finite number: the softmax of -inf over padding only is NaN.
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
    """Return an embedding, (batch, tokens) int64 -> (batch, tokens, size), with zeros for padding.

    Args:
        inputs: The text inputs, with the vocabulary.
        size: Width of the embedding.
        vectors: File of word vectors in GloVe's text format.
        freeze: Do not train the embedding.

    Raises:
        OptionError: The file can't be read or does not match, or `freeze` is set without a file.
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
    """Overwrite the rows of words that the file contains."""
    rows = {word: row for row, word in enumerate(inputs.vocabulary) if row != inputs.padding}
    size = weight.shape[1]
    num_found = 0
    try:
        # Words may contain other line separators, such as a carriage return: only \n ends a line.
        with TextIOWrapper(open_named(path), encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                # From the right, because some words of GloVe contain spaces.
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
