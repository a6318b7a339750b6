"""Losses of sequences: every token counts alike, padding not at all."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dltrain.core.protocols import Loss
from dltrain.losses.supervised import at_least_float32
from dltrain.tasks.common import losses_of


def token_weight(loss: Loss, targets: Tensor, padding: int) -> Tensor | int:
    """Tokens among (batch, tokens) int64, or the sum of their class weights."""
    targets = targets.flatten()
    # Subtracting what padding adds, rather than leaving it out, spares a GPU a wait.
    return loss.weight(targets) - (targets == padding).sum() * loss.weight(
        targets.new_full((1,), padding)
    )


def summed_token_loss(loss: Loss, outputs: Tensor, targets: Tensor, padding: int) -> Tensor:
    """Summed loss of (batch, tokens, classes) outputs for (batch, tokens) int64, a scalar."""
    flat = targets.flatten()
    losses = losses_of(loss, outputs.flatten(0, 1), flat)
    return losses.masked_fill(flat == padding, 0.0).sum()


def summed_cross_entropy(outputs: Tensor, targets: Tensor, padding: int) -> Tensor:
    """Plain cross-entropy of the softmax, summed over the tokens that are not padding, in nats.

    What perplexity and bits per token are made of: unlike a loss, it knows neither label smoothing
    nor class weights.

    Args:
        outputs: (batch, tokens, classes).
        targets: (batch, tokens) int64.
        padding: Id of the padding among the targets.
    """
    logits = at_least_float32(outputs.flatten(0, 1))
    return F.cross_entropy(logits, targets.flatten(), ignore_index=padding, reduction="sum")
