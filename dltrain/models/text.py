"""Models for classification and regression of texts: LSTM, convolutions and transformer.

Inputs are (batch, tokens) int64, padded at the end. Outputs do not depend on the padding, and are
finite for a text without tokens.
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
    """Long short-term memory over the tokens of a text: (batch, tokens) -> (batch, num_outputs).

    Hochreiter and Schmidhuber (1997).

    Args:
        embedding_size: Width of the embedding.
        hidden_size: Width of each layer, in each direction.
        layers: Number of stacked layers.
        bidirectional: Read each text in both directions, in each layer.
        pooling: Reduction over positions: maximum, mean, attention (a learned weighted mean), or
            last, the position where a direction has read the whole text.
        dropout: Dropout probability after the embedding, between layers and before the linear
            layer.
        embeddings: File of word vectors in GloVe's text format, embedding_size numbers per word,
            that initialize the embedding; other words are initialized randomly.
        freeze_embeddings: Do not train the embedding.

    Raises:
        UsageError: The data is not text.
        OptionError: The file of word vectors does not match the vocabulary or the size.

    Example:
        >>> import torch
        >>> from dltrain.core.data_spec import DataSpec, TextInputs
        >>> text = TextInputs("word", vocabulary=("<pad>", "<unknown>", "good", "bad"))
        >>> spec = DataSpec((0,), 2, text)
        >>> text_lstm(spec, hidden_size=8)(torch.tensor([[2, 3, 0], [3, 2, 2]])).shape
        torch.Size([2, 2])
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
        embedding_size: Width of the embedding.
        widths: Kernel size of each convolution, in tokens.
        channels: Output channels of each convolution.
        dropout: Dropout probability before the linear layer.
        embeddings: File of word vectors in GloVe's text format, embedding_size numbers per word,
            that initialize the embedding; other words are initialized randomly.
        freeze_embeddings: Do not train the embedding.

    Raises:
        UsageError: The data is not text.
        OptionError: The file of word vectors does not match the vocabulary or the size.

    Example:
        >>> import torch
        >>> from dltrain.core.data_spec import DataSpec, TextInputs
        >>> text = TextInputs("word", vocabulary=("<pad>", "<unknown>", "good", "bad"))
        >>> spec = DataSpec((0,), 2, text)
        >>> text_cnn(spec, widths=(2, 3))(torch.tensor([[2, 3, 0], [3, 2, 2]])).shape
        torch.Size([2, 2])
    """
    inputs = text_inputs(spec, "text_cnn")
    if not widths:
        raise OptionError("widths", "expected at least one width, such as [3, 4, 5]")
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

    Vaswani et al. (2017), with normalization before each block (Xiong et al., 2020), GELU and
    feed-forward layers four times as wide.

    Args:
        layers: Number of stacked layers.
        heads: Attention heads per layer, a divisor of width.
        width: Width of the embedding and of every layer.
        positions: Position encoding: sinusoidal, for any length, or learned, for data with
            max_tokens.
        dropout: Dropout probability after the embedding and in each layer.

    Raises:
        UsageError: The data is not text.
        OptionError: `width` is not a multiple of `heads`, or learned positions need `max_tokens`.

    Example:
        >>> import torch
        >>> from dltrain.core.data_spec import DataSpec, TextInputs
        >>> text = TextInputs("word", vocabulary=("<pad>", "<unknown>", "good", "bad"))
        >>> spec = DataSpec((0,), 2, text)
        >>> text_transformer(spec, heads=2, width=8)(torch.tensor([[2, 3, 0], [3, 2, 2]])).shape
        torch.Size([2, 2])
    """
    inputs = text_inputs(spec, "text_transformer")
    if width % heads:
        raise OptionError("heads", f"expected a divisor of width, {width}, got {heads}")
    max_tokens = inputs.max_tokens or spec.input_shape[0]
    if positions == "learned" and not max_tokens:
        raise OptionError(
            "positions",
            "'learned' needs data with max_tokens; use 'sinusoidal' for other data",
        )
    embedding = word_embedding(inputs, width)
    num_positions = max_tokens if positions == "learned" else None
    return TextTransformer(embedding, layers, heads, num_positions, dropout, spec.num_outputs)
