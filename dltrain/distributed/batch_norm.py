"""Batch normalization over the samples of all ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dltrain.core.protocols import ProcessGroup


class GroupBatchNorm(_BatchNorm):
    """Batch normalization whose statistics in training are those of the samples of all ranks.

    Unlike `torch.nn.SyncBatchNorm` it supports CPUs. The placeholder of an empty shard does not
    enter the statistics; it is normalized with those of the other ranks.

    Args:
        layer: Layer whose parameters and buffers are used.
        process_group: Ranks, all of which must call the layer equally often.

    Attributes:
        counts: Whether the samples of the next call enter the statistics.
    """

    def __init__(self, layer: _BatchNorm, process_group: ProcessGroup) -> None:
        super().__init__(
            layer.num_features,
            layer.eps,
            layer.momentum,
            layer.affine,
            layer.track_running_stats,
        )
        self._parameters.update(layer._parameters)
        self._buffers.update(layer._buffers)
        self.train(layer.training)
        self.process_group = process_group
        self.counts: bool = True

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalize (batch, features, ...) over all but the second dimension."""
        if not self.training:
            return super().forward(input)
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        dims = [0, *range(2, input.dim())]
        shape = (1, -1, *[1] * (input.dim() - 2))
        counted = len(values) if self.counts else 0
        # The same operations on each rank, even without samples: backward exchanges sums too.
        count = values.new_full((1,), float(counted * values[0, 0].numel()))
        sums = _sum(torch.cat([values[:counted].sum(dims), count]), self.process_group)
        total = sums[-1].detach()
        if counted * values[0, 0].numel() <= 1 and float(total) <= 1:  # device sync
            raise ValueError("Expected more than 1 value per channel when training, got 1 in all")
        centred = values - (sums[:-1] / total).view(shape)
        variance = _sum(centred[:counted].square().sum(dims), self.process_group) / total
        if self.running_mean is not None and self.running_var is not None:
            mean = (sums[:-1] / total).detach()
            unbiased = variance.detach() * total / (total - 1).clamp(min=1)
            momentum = self._momentum()
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        outputs = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            outputs = outputs * self.weight.view(shape) + self.bias.view(shape)
        return outputs.to(input.dtype)

    def _momentum(self) -> float:
        """Return the weight of new statistics; without `momentum`, that of a cumulative mean."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                return 1.0 / float(self.num_batches_tracked)
        return self.momentum or 0.0

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")


class _Sum(torch.autograd.Function):
    """Sum over all ranks with gradient, which is the sum of their gradients; of any order."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, process_group: ProcessGroup) -> Tensor:
        ctx.process_group = process_group
        return process_group.all_reduce_sum(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        return _sum(gradient, ctx.process_group), None


def _sum(tensor: Tensor, process_group: ProcessGroup) -> Tensor:
    summed = _Sum.apply(tensor, process_group)
    assert isinstance(summed, Tensor)
    return summed


def convert_batch_norm(model: nn.Module, process_group: ProcessGroup) -> nn.Module:
    """Replace batch normalization layers by ones over all ranks, and return the model.

    Layers of a class that overrides `forward` or `train` are not replaced: they may use fixed
    statistics in training, as frozen layers do.
    """
    replaced: dict[int, GroupBatchNorm] = {}
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(layer, _BatchNorm):
            continue
        kind = type(layer)
        if kind.forward is not _BatchNorm.forward or kind.train is not nn.Module.train:
            continue
        new = replaced.setdefault(id(layer), GroupBatchNorm(layer, process_group))
        if not name:
            return new
        model.set_submodule(name, new)
    return model
