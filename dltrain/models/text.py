"""Models that read a text and give one answer: recurrent, convolutional and by attention.

Each takes (batch, tokens) int64, padded at the end. What a text gives does not depend on how far it
is padded, and a text without tokens gives finite outputs.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from dltrain.core.data_spec import DataSpec
from dltrain.core.errors import OptionError
from dltrain.core.option_types import PositiveInt, Probability
from dltrain.core.paths import ConfigPath
from dltrain.core.registry import MODELS
from dltrain.models.text_encoders import TextCnn, TextLstm, TextTransformer
from dltrain.models.text_layers import PoolingName, text_inputs, word_embedding

Positions = Literal["learned", "sinusoidal"]


@MODELS.register
def text_lstm(
    spec: DataSpec,
    /,
    *,
    embedding_size: PositiveInt = 100,
    hidden_size: PositiveInt = 128,
    layers: PositiveInt = 2,
    bidirectional: bool = False,
    pooling: PoolingName = "max",
    dropout: Probability = 0.5,
    embeddings: ConfigPath | None = None,
    freeze_embeddings: bool = False,
) -> nn.Module:
    """Long short-term memory for whole texts: (batch, tokens) -> (batch, num_outputs).

    Hochreiter and Schmidhuber (1997).

    Args:
        embedding_size: Numbers that stand for a token.
        hidden_size: Width of each layer, in each direction.
        layers: Number of layers, one above the other.
        bidirectional: Read each text from end to start too, in each layer.
        pooling: How positions become one vector; last takes where a direction has read everything,
            attention a learned weighted mean.
        dropout: Share of features set to zero in training, after the embedding, between layers and
            before the linear layer.
        embeddings: File of word vectors in GloVe's text format, embedding_size numbers a word, for
            the embedding to begin with; other words begin at random.
        freeze_embeddings: Keep the embedding as it began.

    Raises:
        UsageError: The data is not text, or the file of word vectors does not fit.
    """
    inputs = text_inputs(spec, "text_lstm")
    embedding = word_embedding(inputs, embedding_size, embeddings, freeze_embeddings)
    return TextLstm(
        embedding, hidden_size, layers, bidirectional, pooling, dropout, spec.num_outputs
    )


@MODELS.register
def text_cnn(
    spec: DataSpec,
    /,
    *,
    embedding_size: PositiveInt = 100,
    widths: tuple[PositiveInt, ...] = (3, 4, 5),
    channels: PositiveInt = 100,
    dropout: Probability = 0.5,
    embeddings: ConfigPath | None = None,
    freeze_embeddings: bool = False,
) -> nn.Module:
    """Convolutions over tokens and their maximum: (batch, tokens) -> (batch, num_outputs).

    Kim (2014).

    Args:
        embedding_size: Numbers that stand for a token.
        widths: How many tokens each convolution sees at once.
        channels: Output channels of each convolution.
        dropout: Share of features set to zero in training before the linear layer.
        embeddings: File of word vectors in GloVe's text format, embedding_size numbers a word, for
            the embedding to begin with; other words begin at random.
        freeze_embeddings: Keep the embedding as it began.

    Raises:
        UsageError: The data is not text, or the file of word vectors does not fit.
    """
    inputs = text_inputs(spec, "text_cnn")
    if not widths:
        raise OptionError("widths", "model 'text_cnn' needs at least one width, such as [3, 4, 5]")
    embedding = word_embedding(inputs, embedding_size, embeddings, freeze_embeddings)
    return TextCnn(embedding, widths, channels, dropout, spec.num_outputs)


@MODELS.register
def text_transformer(
    spec: DataSpec,
    /,
    *,
    layers: PositiveInt = 2,
    heads: PositiveInt = 4,
    width: PositiveInt = 128,
    positions: Positions = "sinusoidal",
    dropout: Probability = 0.1,
) -> nn.Module:
    """Transformer encoder and the mean over tokens: (batch, tokens) -> (batch, num_outputs).

    Vaswani et al. (2017), normalised before each block (Xiong et al., 2020), with GELU and
    feed-forward layers four times as wide.

    Args:
        layers: Number of layers, one above the other.
        heads: Attention heads of each layer, a divisor of width.
        width: Numbers that stand for a token, in every layer.
        positions: sinusoidal fits any length; learned needs data with max_tokens.
        dropout: Share of features set to zero in training, after the embedding and in each layer.

    Raises:
        UsageError: The data is not text, or has no longest text; or the heads do not divide width.
    """
    inputs = text_inputs(spec, "text_transformer")
    if width % heads:
        raise OptionError("heads", f"heads must divide width, and {heads} does not divide {width}")
    max_tokens = inputs.max_tokens or spec.input_shape[0]
    if positions == "learned" and not max_tokens:
        raise OptionError(
            "positions", "'positions: learned' needs data with max_tokens; sinusoidal does not"
        )
    embedding = word_embedding(inputs, width)
    num_positions = max_tokens if positions == "learned" else None
    return TextTransformer(embedding, layers, heads, num_positions, dropout, spec.num_outputs)
