"""The modules of the text models, for (batch, tokens) int64, padded at the end."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dltrain.models.layers import Dropout
from dltrain.models.text_layers import (
    Pooling,
    PoolingName,
    max_over,
    mean_over,
    padded,
    reverse_valid,
)


class TextLstm(nn.Module):
    """The model of `text_lstm`.

    The forward direction reads the padding last, and the backward direction reads each sequence
    reversed within its length, so no packed sequences are needed, which would synchronize with the
    device.
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        hidden_size: int,
        layers: int,
        bidirectional: bool,
        pooling: PoolingName,
        dropout: float,
        num_outputs: int,
    ) -> None:
        super().__init__()
        width = hidden_size * (2 if bidirectional else 1)
        sizes = [embedding.embedding_dim] + [width] * (layers - 1)
        self.embedding = embedding
        self.dropout: Dropout = Dropout(dropout)
        self.forward_layers: nn.ModuleList = nn.ModuleList(
            nn.LSTM(size, hidden_size, batch_first=True) for size in sizes
        )
        self.backward_layers: nn.ModuleList = nn.ModuleList(
            nn.LSTM(size, hidden_size, batch_first=True) for size in sizes if bidirectional
        )
        self.pooling: Pooling = Pooling(pooling, width, bidirectional)
        self.head: nn.Linear = nn.Linear(width, num_outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform (batch, tokens) int64 to (batch, num_outputs)."""
        tokens, valid = padded(tokens, 1, self.embedding)
        features = self.encode(self.embedding(tokens), valid.sum(dim=1))
        return self.head(self.dropout(self.pooling(features, valid)))

    def encode(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Transform (batch, tokens, embedding_size) to (batch, tokens, width)."""
        for number, layer in enumerate(self.forward_layers):
            features = self.dropout(features)
            outputs, _ = layer(features)
            if self.backward_layers:
                backward, _ = self.backward_layers[number](reverse_valid(features, lengths))
                outputs = torch.cat([outputs, reverse_valid(backward, lengths)], dim=2)
            features = outputs
        return features


class TextCnn(nn.Module):
    """The model of `text_cnn`."""

    def __init__(
        self,
        embedding: nn.Embedding,
        widths: tuple[int, ...],
        channels: int,
        dropout: float,
        num_outputs: int,
    ) -> None:
        super().__init__()
        self.widths = widths
        self.embedding = embedding
        self.convolutions: nn.ModuleList = nn.ModuleList(
            nn.Conv1d(embedding.embedding_dim, channels, width) for width in widths
        )
        self.dropout: Dropout = Dropout(dropout)
        self.head: nn.Linear = nn.Linear(channels * len(widths), num_outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform (batch, tokens) int64 to (batch, num_outputs)."""
        tokens, valid = padded(tokens, max(self.widths), self.embedding)
        lengths = valid.sum(dim=1, keepdim=True)
        features = self.embedding(tokens).transpose(1, 2)
        pooled = []
        for width, convolution in zip(self.widths, self.convolutions, strict=True):
            outputs = convolution(features).relu().transpose(1, 2)
            starts = torch.arange(outputs.shape[1], device=tokens.device)
            # Only windows of valid tokens; a text shorter than the window uses the first one.
            whole = starts <= (lengths - width).clamp(min=0)
            pooled.append(max_over(outputs, whole))
        return self.head(self.dropout(torch.cat(pooled, dim=1)))


class TextTransformer(nn.Module):
    """The model of `text_transformer`."""

    def __init__(
        self,
        embedding: nn.Embedding,
        layers: int,
        heads: int,
        num_positions: int | None,
        dropout: float,
        num_outputs: int,
    ) -> None:
        super().__init__()
        width = embedding.embedding_dim
        self.embedding = embedding
        self.positions: nn.Embedding | None = (
            nn.Embedding(num_positions, width) if num_positions else None
        )
        self.dropout: Dropout = Dropout(dropout)
        # nn.TransformerEncoder would copy one layer, with the same initial weights.
        self.layers: nn.ModuleList = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm: nn.LayerNorm = nn.LayerNorm(width)
        self.head: nn.Linear = nn.Linear(width, num_outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform (batch, tokens) int64 to (batch, num_outputs)."""
        tokens, valid = padded(tokens, 1, self.embedding)
        numbers = torch.arange(tokens.shape[1], device=tokens.device)
        # Attention to no position is NaN: a text without tokens attends to its first padding.
        hidden = ~valid & (numbers > 0)
        features = self.embedding(tokens)
        if self.positions is None:
            features = features + sinusoids(numbers, features.shape[2]).to(features.dtype)
        else:
            # Data truncates texts at max_tokens, so only padding has larger positions.
            numbers = numbers.clamp(max=self.positions.num_embeddings - 1)
            features = features + self.positions(numbers)
        features = self.dropout(features)
        for layer in self.layers:
            features = layer(features, src_key_padding_mask=hidden)
        return self.head(mean_over(self.norm(features), valid))


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Return sines and cosines of geometric wavelengths (Vaswani et al., 2017, section 3.5).

    Args:
        positions: (positions,) int64.
        width: Width of the encoding.

    Returns:
        (positions, width) float32, the sines in the first half.
    """
    half = (width + 1) // 2
    exponents = torch.arange(half, device=positions.device) / half
    angles = positions[:, None] * torch.exp(-math.log(10_000.0) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]
