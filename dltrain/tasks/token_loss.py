"""Losses of sequences, over all tokens except padding."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dltrain.core.protocols import Loss
from dltrain.losses.supervised import at_least_float32
from dltrain.tasks.common import losses_of


def token_weight(loss: Loss, targets: Tensor, padding: int) -> Tensor | int:
    """Return the number of tokens in (batch, tokens) int64, or the sum of their class weights."""
    targets = targets.flatten()
    # Subtracting the weight of padding, instead of filtering it, avoids a synchronization.
    return loss.weight(targets) - (targets == padding).sum() * loss.weight(
        targets.new_full((1,), padding)
    )


def summed_token_loss(loss: Loss, outputs: Tensor, targets: Tensor, padding: int) -> Tensor:
    """Return the summed loss of (batch, tokens, classes) for (batch, tokens) int64, a scalar."""
    flat = targets.flatten()
    losses = losses_of(loss, outputs.flatten(0, 1), flat)
    return losses.masked_fill(flat == padding, 0.0).sum()


def summed_cross_entropy(outputs: Tensor, targets: Tensor, padding: int) -> Tensor:
    """Return the plain cross-entropy of the softmax, summed over tokens except padding, in nats.

    Perplexity and bits per token are computed from it, without label smoothing and class weights.

    Args:
        outputs: (batch, tokens, classes).
        targets: (batch, tokens) int64.
        padding: Id of the padding in the targets.
    """
    logits = at_least_float32(outputs.flatten(0, 1))
    return F.cross_entropy(logits, targets.flatten(), ignore_index=padding, reduction="sum")
