"""Language models: logits of the next token for each token."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.core.data_spec import DataSpec
from dltrain.core.errors import DataError, OptionError, UsageError
from dltrain.core.option_types import PositiveInt, Probability
from dltrain.core.registry import MODELS
from dltrain.models.layers import Dropout, StackedLstm

LstmState = tuple[Tensor, Tensor]
"""Hidden and cell state, each (layers, batch, hidden_size)."""


@MODELS.register("text_generator")
class TextGenerator(nn.Module):
    """LSTM over embedded tokens: (batch, tokens) int64 -> (batch, tokens, num_outputs).

    Hochreiter and Schmidhuber, "Long short-term memory", 1997. Each window begins with a zero
    state.

    Args:
        hidden_size: Width of the embedding and of each LSTM layer.
        layers: Number of stacked LSTM layers.
        dropout: Dropout probability of embedded and hidden units.
        tied: Use the embedding's weights for the output too (Press and Wolf, 2017).

    Raises:
        UsageError: The data is not text.

    Example:
        >>> import torch
        >>> from dltrain.core.data_spec import DataSpec, TextInputs
        >>> text = TextInputs("word", vocabulary=("<pad>", "<unknown>", "good", "bad"))
        >>> spec = DataSpec((0,), 4, text)
        >>> TextGenerator(spec, hidden_size=8)(torch.tensor([[2, 3, 0], [3, 2, 2]])).shape
        torch.Size([2, 3, 4])
    """

    def __init__(
        self,
        spec: DataSpec,
        /,
        *,
        hidden_size: PositiveInt = 256,
        layers: PositiveInt = 1,
        dropout: Probability = 0.0,
        tied: bool = False,
    ) -> None:
        """See the class for the options."""
        super().__init__()
        self.embedding: nn.Embedding = nn.Embedding(
            _vocabulary_size(spec, "text_generator"), hidden_size
        )
        self.dropout: Dropout = Dropout(dropout)
        self.lstm: StackedLstm = StackedLstm(hidden_size, hidden_size, layers, dropout)
        self.output: _Output = _Output(spec, self.embedding, tied)
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("bias_ih"):
                # an open forget gate passes gradients (Jozefowicz et al., 2015)
                nn.init.ones_(parameter.data[hidden_size : 2 * hidden_size])

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the token after each."""
        outputs, _ = self.step(tokens, None)
        return outputs

    def step(self, tokens: Tensor, state: LstmState | None) -> tuple[Tensor, LstmState]:
        """Continue from the state of an earlier call, so that generation reads no token twice.

        Args:
            tokens: (batch, tokens) int64.
            state: The state that the earlier call returned; None at the beginning.

        Returns:
            The logits of the token after each, and the state after the last token.
        """
        hidden, last = self.lstm(self.dropout(self.embedding(tokens)), state)
        return self.output(self.dropout(hidden), self.embedding.weight), last


@MODELS.register("gpt")
class Gpt(nn.Module):
    """Transformer decoder: (batch, tokens) int64 -> (batch, tokens, num_outputs).

    Radford et al., "Language models are unsupervised multitask learners", 2019: normalization
    before each sublayer, learned positions, GELU. Its context is the window of the data.

    Args:
        layers: Number of blocks of attention and feed-forward network.
        heads: Attention heads per block.
        width: Width of the embedding, a multiple of `heads`.
        dropout: Dropout probability of hidden units and attention weights.
        tied: Use the embedding's weights for the output too (Press and Wolf, 2017).

    Raises:
        OptionError: `width` is not a multiple of `heads`.
        UsageError: The data is not text, or has no fixed window.

    Example:
        >>> import torch
        >>> from dltrain.core.data_spec import DataSpec, TextInputs
        >>> text = TextInputs("word", vocabulary=("<pad>", "<unknown>", "good", "bad"))
        >>> spec = DataSpec((16,), 4, text)
        >>> Gpt(spec, layers=1, heads=2, width=8)(torch.tensor([[2, 3, 0], [3, 2, 2]])).shape
        torch.Size([2, 3, 4])
    """

    def __init__(
        self,
        spec: DataSpec,
        /,
        *,
        layers: PositiveInt = 4,
        heads: PositiveInt = 4,
        width: PositiveInt = 128,
        dropout: Probability = 0.0,
        tied: bool = True,
    ) -> None:
        """See the class for the options."""
        super().__init__()
        vocabulary_size = _vocabulary_size(spec, "gpt")
        self.window: int = spec.input_shape[0]
        if self.window == 0:
            raise UsageError(
                "model 'gpt' expected windows of a fixed length, as in data 'text_file'"
            )
        if width % heads:
            raise OptionError("width", f"expected a multiple of {heads} heads, got {width}")
        self.embedding: nn.Embedding = nn.Embedding(vocabulary_size, width)
        self.position: nn.Embedding = nn.Embedding(self.window, width)
        self.dropout: Dropout = Dropout(dropout)
        self.blocks: nn.Sequential = nn.Sequential(
            *(_Block(width, heads, dropout) for _ in range(layers))
        )
        self.norm: nn.LayerNorm = nn.LayerNorm(width)
        self.output: _Output = _Output(spec, self.embedding, tied)
        self._initialize(layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """The logits of the token after each.

        Raises:
            DataError: The input is longer than the window.
        """
        if tokens.shape[1] > self.window:
            raise DataError(
                f"model 'gpt' expected at most {self.window} tokens, got {tokens.shape[1]}"
            )
        places = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.dropout(self.embedding(tokens) + self.position(places))
        return self.output(self.norm(self.blocks(hidden)), self.embedding.weight)

    def _initialize(self, layers: int) -> None:
        """Initialize as GPT-2: weights of residual layers are scaled by the number of layers."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                adds = name.endswith(("project.weight", "shrink.weight"))
                nn.init.normal_(parameter, std=0.02 / sqrt(2 * layers) if adds else 0.02)


class _Block(nn.Module):
    """Causal self-attention, then a feed-forward network, each with a residual connection."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.attention_dropout = heads, dropout
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.shrink = nn.Linear(4 * width, width)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Transform (batch, tokens, width) to the same shape."""
        hidden = hidden + self.dropout(self.project(self._attend(self.attention_norm(hidden))))
        fed = F.gelu(self.expand(self.feed_norm(hidden)), approximate="tanh")
        return hidden + self.dropout(self.shrink(fed))

    def _attend(self, hidden: Tensor) -> Tensor:
        parts = self.qkv(hidden).unflatten(-1, (3, self.heads, -1))  # (batch, tokens, 3, heads, _)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=self.attention_dropout if self.training else 0.0,
            is_causal=True,
        )
        return attended.transpose(1, 2).flatten(2)


class _Output(nn.Module):
    """Linear layer from hidden units to logits, with its own weights or those of the embedding."""

    weight: nn.Parameter | None

    def __init__(self, spec: DataSpec, embedding: nn.Embedding, tied: bool) -> None:
        super().__init__()
        size, width = embedding.weight.shape
        if tied and spec.num_outputs != size:
            raise OptionError(
                "tied",
                f"the loss needs {spec.num_outputs} outputs, the vocabulary has {size} tokens",
            )
        self.bias: nn.Parameter = nn.Parameter(torch.zeros(spec.num_outputs))
        # The tied matrix is a parameter of the embedding only, so that checkpoints have it once.
        weight = None if tied else nn.Parameter(torch.empty(spec.num_outputs, width))
        self.register_parameter("weight", weight)
        bound = 1 / sqrt(width)
        if weight is None:
            nn.init.normal_(embedding.weight, std=bound)  # for small initial logits
        else:
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """Transform (..., width) to (..., num_outputs)."""
        return F.linear(hidden, embedding if self.weight is None else self.weight, self.bias)


def _vocabulary_size(spec: DataSpec, name: str) -> int:
    if spec.inputs.kind != "text":
        raise UsageError(
            f"model {name!r} expected text, and this data has {spec.inputs.kind} inputs"
        )
    return len(spec.inputs.vocabulary)
