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
    """The parameters that a `ExponentialMovingAverage` of the same arguments averages, by name."""
    if decay is None:
        return {}
    wanted = {id(p) for module in modules for p in module.parameters() if p.requires_grad}
    return {name: p for name, p in model.named_parameters() if id(p) in wanted}


class ExponentialMovingAverage:
    """A moving average of trainable parameters of a model; of none where `decay` is None.

    The decay grows with the number of updates n as min(decay, (1 + n) / (10 + n)), so that the
    first weights are soon forgotten (the `num_updates` rule of TensorFlow's
    ExponentialMovingAverage). Buffers, such as batch norm's statistics, stay the model's.

    Args:
        model: Gives the parameters their names.
        modules: Those of its parts that are averaged.
        decay: Share of the average that is kept at each update.
    """

    def __init__(self, model: nn.Module, modules: Iterable[nn.Module], decay: float | None) -> None:
        self.decay: float = decay or 0.0
        kept = averaged_parameters(model, modules, decay)
        self._parameters: list[Tensor] = list(kept.values())
        self.tensors: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in kept.items()
        }

    def weight(self, updates: int) -> float:
        """How far the average moves towards the weights after update number `updates`."""
        return 1 - min(self.decay, (1 + updates) / (10 + updates))

    @torch.no_grad()
    def update(self, weight: float | Tensor) -> None:
        """Moves the average by this share of the way to the weights; see `weight`."""
        averages = list(self.tensors.values())
        if not averages:
            return
        if isinstance(weight, Tensor):  # torch's lerp over lists takes numbers only
            way = _over_lists("sub", self._parameters, averages)
            _over_lists("mul_", way, weight)
            _over_lists("add_", averages, way)
        else:
            _over_lists("lerp_", averages, self._parameters, weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model computes with the averages inside this context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes the averages from a checkpoint."""
        for name, average in self.tensors.items():
            average.copy_(shard_like(tensors[name], average))

    @torch.no_grad()
    def _swap(self) -> None:
        # By copies: what has shards keeps views of its own of their memory.
        for average, parameter in zip(self.tensors.values(), self._parameters, strict=True):
            weights = parameter.clone()
            parameter.copy_(average)
            average.copy_(weights)


def _over_lists(operation: str, *arguments: Any) -> Any:
    """One of torch's operations over lists of tensors, a few launches for all of them."""
    return getattr(torch, f"_foreach_{operation}")(*arguments)
