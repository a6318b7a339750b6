"""Sequence-to-sequence models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dltrain.core.data_spec import DataSpec
from dltrain.core.option_types import PositiveInt, Probability
from dltrain.core.registry import MODELS
from dltrain.models.layers import Dropout
from dltrain.models.text_layers import reverse_valid, text_inputs

State = tuple[Tensor, Tensor]
"""Hidden and cell state of the decoder, each (1, batch, hidden_size)."""


@MODELS.register("seq2seq_lstm")
class Seq2SeqLstm(nn.Module):
    """LSTM encoder and decoder with attention: (batch, tokens) -> (batch, outputs, num_outputs).

    The encoder is bidirectional, over the valid positions only. The decoder attends to its outputs
    with bilinear attention after each step (Luong, Pham and Manning, "Effective approaches to
    attention-based neural machine translation", 2015).

    Args:
        hidden_size: Width of embeddings and LSTMs.
        dropout: Dropout probability of embedded and attended units.

    Raises:
        UsageError: The data is not text.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TextInputs
        >>> text = TextInputs("character", vocabulary=("<pad>", "<unknown>", "a", "b"))
        >>> model = Seq2SeqLstm(DataSpec((0,), 5, text), hidden_size=8)
        >>> tokens, previous = torch.tensor([[2, 3, 0]]), torch.tensor([[4, 2]])
        >>> model(tokens, previous).shape
        torch.Size([1, 2, 5])
    """

    def __init__(
        self,
        spec: DataSpec,
        /,
        *,
        hidden_size: PositiveInt = 128,
        dropout: Probability = 0.0,
    ) -> None:
        """See the class for the options."""
        super().__init__()
        size = hidden_size
        inputs = text_inputs(spec, "seq2seq_lstm")
        self.padding: int = inputs.padding
        self.source: nn.Embedding = nn.Embedding(len(inputs.vocabulary), size)
        self.target: nn.Embedding = nn.Embedding(spec.num_outputs, size)
        self.dropout: Dropout = Dropout(dropout)
        self.onward: nn.LSTM = nn.LSTM(size, size, batch_first=True)
        self.backward_: nn.LSTM = nn.LSTM(size, size, batch_first=True)
        self.memory: nn.Linear = nn.Linear(2 * size, size)
        self.start: nn.Linear = nn.Linear(2 * size, size)
        self.decoder: nn.LSTM = nn.LSTM(size, size, batch_first=True)
        self.attend: nn.Linear = nn.Linear(size, size, bias=False)
        self.combine: nn.Linear = nn.Linear(2 * size, size)
        self.output: nn.Linear = nn.Linear(size, spec.num_outputs)

    def forward(self, tokens: Tensor, previous: Tensor) -> Tensor:
        """Return the logits of each output token, given the previous one.

        Args:
            tokens: (batch, tokens) int64.
            previous: (batch, outputs) int64, the targets shifted by one position.
        """
        memory, state = self.encode(tokens)
        logits, _ = self.decode(previous, memory, tokens != self.padding, state)
        return logits

    def encode(self, tokens: Tensor) -> tuple[Tensor, State]:
        """Return the memory, (batch, tokens, hidden_size), and the decoder's initial state."""
        lengths = (tokens != self.padding).sum(dim=1).clamp(min=1)
        embedded = self.dropout(self.source(tokens))
        onward, _ = self.onward(embedded)
        backward, _ = self.backward_(reverse_valid(embedded, lengths))
        last = (lengths - 1)[:, None, None].expand(-1, 1, onward.shape[2])
        ends = torch.cat([states.gather(1, last).squeeze(1) for states in (onward, backward)], 1)
        both = torch.cat([onward, reverse_valid(backward, lengths)], dim=2)
        hidden = self.start(ends).tanh()[None]
        return self.memory(both), (hidden, torch.zeros_like(hidden))

    def decode(
        self, previous: Tensor, memory: Tensor, valid: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """Continue from the state of `encode` or of an earlier call.

        Args:
            previous: (batch, outputs) int64.
            memory: From `encode`.
            valid: (batch, tokens) bool, where `memory` holds a token.
            state: From `encode`, or from the earlier call.

        Returns:
            Logits (batch, outputs, num_outputs), and the state after the last of them.
        """
        hidden, state = self.decoder(self.dropout(self.target(previous)), state)
        scores = self.attend(hidden) @ memory.transpose(1, 2)
        weights = scores.masked_fill(~valid[:, None], float("-inf")).softmax(dim=2)
        attended = torch.cat([hidden, weights @ memory], dim=2)
        return self.output(self.dropout(self.combine(attended).tanh())), state
