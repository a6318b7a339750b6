"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.distributed.fsdp import shard_like


def averaged_parameters(
    model: nn.Module, modules: Iterable[nn.Module], decay: float | None
) -> dict[str, nn.Parameter]:
    """Return the parameters that `ExponentialMovingAverage` averages, by name."""
    if decay is None:
        return {}
    wanted = {id(p) for module in modules for p in module.parameters() if p.requires_grad}
    return {name: p for name, p in model.named_parameters() if id(p) in wanted}


class ExponentialMovingAverage:
    """Exponential moving average (EMA) of the trainable parameters of a model.

    The decay grows with the number of updates n as min(decay, (1 + n) / (10 + n)), so that the
    initial weights lose their influence soon (the `num_updates` rule of TensorFlow's
    ExponentialMovingAverage). Buffers, such as the statistics of batch normalization, are not
    averaged.

    Args:
        model: Model whose parameter names are used.
        modules: Submodules whose parameters are averaged.
        decay: Fraction of the average that is kept at each update; None averages nothing.
    """

    def __init__(self, model: nn.Module, modules: Iterable[nn.Module], decay: float | None) -> None:
        self.decay: float = decay or 0.0
        kept = averaged_parameters(model, modules, decay)
        self._parameters: list[Tensor] = list(kept.values())
        self.tensors: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in kept.items()
        }

    def weight(self, updates: int) -> float:
        """Return the weight of the new parameters in the average after `updates` updates."""
        return 1 - min(self.decay, (1 + updates) / (10 + updates))

    @torch.no_grad()
    def update(self, weight: float | Tensor) -> None:
        """Update the average as `average += weight * (parameter - average)`."""
        averages = list(self.tensors.values())
        if not averages:
            return
        if isinstance(weight, Tensor):  # torch's lerp over lists accepts Python numbers only
            difference = _over_lists("sub", self._parameters, averages)
            _over_lists("mul_", difference, weight)
            _over_lists("add_", averages, difference)
        else:
            _over_lists("lerp_", averages, self._parameters, weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swap the parameters of the model with their averages inside the context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the averages from a checkpoint."""
        for name, average in self.tensors.items():
            average.copy_(shard_like(tensors[name], average))

    @torch.no_grad()
    def _swap(self) -> None:
        # Copies, because FSDP keeps views of the memory of its shards.
        for average, parameter in zip(self.tensors.values(), self._parameters, strict=True):
            weights = parameter.clone()
            parameter.copy_(average)
            average.copy_(weights)


def _over_lists(operation: str, *arguments: Any) -> Any:
    """Call an operation of torch over lists of tensors, which takes few kernel launches."""
    return getattr(torch, f"_foreach_{operation}")(*arguments)
