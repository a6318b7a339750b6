"""Optimizers of torch, in their fastest form, with weight decay on weights only."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from dltrain.core.errors import UsageError
from dltrain.core.option_types import NonNegativeFloat, PositiveFloat, Probability
from dltrain.core.registry import OPTIMIZERS, Limits

Groups = list[dict[str, Any]]


@OPTIMIZERS.register
def sgd(
    module: nn.Module,
    /,
    *,
    lr: PositiveFloat = 0.01,
    momentum: Probability = 0.9,
    nesterov: bool = False,
    weight_decay: NonNegativeFloat = 0.0,
) -> Optimizer:
    """Stochastic gradient descent with momentum.

    Args:
        lr: Learning rate.
        momentum: Fraction of the last step that is kept in the next.
        nesterov: Use Nesterov momentum (Sutskever et al., 2013).
        weight_decay: L2 penalty: multiple of the weights that is added to their gradients.

    Raises:
        UsageError: `nesterov` is true and `momentum` is 0.

    Example:
        >>> from torch import nn
        >>> optimizer = sgd(nn.Linear(4, 3), lr=0.1, weight_decay=0.1)
        >>> [group["weight_decay"] for group in optimizer.param_groups]  # weights, then biases
        [0.1, 0.0]
    """
    if nesterov and momentum == 0:
        raise UsageError("'nesterov: true' needs a momentum above 0, such as 0.9")
    groups = parameter_groups(module.parameters(), weight_decay)
    is_sharded = any(hasattr(parameter, "full_tensor") for parameter in module.parameters())
    fused = None if is_sharded else _fused(groups)  # torch has no fused SGD for shards
    optimizer = _unwrapped(torch.optim.SGD)(
        groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused
    )
    if momentum > 0:
        # Fused SGD leaves them uninitialized where the gradient scaler skips the first step.
        for group in groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


@OPTIMIZERS.register
def adam(
    module: nn.Module,
    /,
    *,
    lr: PositiveFloat = 1e-3,
    betas: tuple[Probability, Probability] = (0.9, 0.999),
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.0,
) -> Optimizer:
    """Adam (Kingma and Ba, 2015).

    Args:
        lr: Learning rate.
        betas: Decay rates of the running means of the gradient and of its square.
        eps: Added to the denominator.
        weight_decay: L2 penalty: multiple of the weights that is added to their gradients; the
            decoupled weight decay of `adamw` usually works better.

    Example:
        >>> from torch import nn
        >>> optimizer = adam(nn.Linear(4, 3), weight_decay=0.1)
        >>> [group["weight_decay"] for group in optimizer.param_groups]  # weights, then biases
        [0.1, 0.0]
    """
    groups = parameter_groups(module.parameters(), weight_decay)
    return _unwrapped(torch.optim.Adam)(groups, lr=lr, betas=betas, eps=eps, fused=_fused(groups))


@OPTIMIZERS.register
def adamw(
    module: nn.Module,
    /,
    *,
    lr: PositiveFloat = 1e-3,
    betas: tuple[Probability, Probability] = (0.9, 0.999),
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.01,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

    Args:
        lr: Learning rate.
        betas: Decay rates of the running means of the gradient and of its square.
        eps: Added to the denominator.
        weight_decay: Decoupled weight decay: each step shrinks the weights by this fraction times
            the learning rate.

    Example:
        >>> from torch import nn
        >>> optimizer = adamw(nn.Linear(4, 3), weight_decay=0.1)
        >>> [group["weight_decay"] for group in optimizer.param_groups]  # weights, then biases
        [0.1, 0.0]
    """
    return _adamw(parameter_groups(module.parameters(), weight_decay), lr, betas, eps)


@OPTIMIZERS.register
def rmsprop(
    module: nn.Module,
    /,
    *,
    lr: PositiveFloat = 1e-3,
    alpha: Probability = 0.99,
    momentum: Probability = 0.0,
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.0,
) -> Optimizer:
    """Gradients divided by the root of their running mean square (Tieleman and Hinton, 2012).

    Args:
        lr: Learning rate.
        alpha: Decay rate of the running mean of the squared gradient.
        momentum: Fraction of the last step that is kept in the next.
        eps: Added to the denominator.
        weight_decay: L2 penalty: multiple of the weights that is added to their gradients.

    Example:
        >>> from torch import nn
        >>> optimizer = rmsprop(nn.Linear(4, 3), weight_decay=0.1)
        >>> [group["weight_decay"] for group in optimizer.param_groups]  # weights, then biases
        [0.1, 0.0]
    """
    # torch has no fused RMSprop; on a CPU too, `foreach` is faster than a loop.
    groups = parameter_groups(module.parameters(), weight_decay)
    return _unwrapped(torch.optim.RMSprop)(
        groups, lr=lr, alpha=alpha, momentum=momentum, eps=eps, foreach=True
    )


@OPTIMIZERS.register(
    limits=Limits(fsdp="it orthogonalizes whole matrices, and a rank has only a shard of each")
)
def muon(
    module: nn.Module,
    /,
    *,
    lr: PositiveFloat = 1e-3,
    momentum: Probability = 0.95,
    betas: tuple[Probability, Probability] = (0.9, 0.999),
    weight_decay: NonNegativeFloat = 0.01,
) -> tuple[Optimizer, ...]:
    """Orthogonalized momentum for hidden weight matrices, AdamW for the rest (Jordan et al., 2024).

    The rest is the first and the last layer, embeddings, convolutions, biases and norms. The step
    of Muon is scaled to the size of an AdamW step (Liu et al., 2025), so that both share one
    learning rate.

    Args:
        lr: Learning rate of both.
        momentum: Fraction of the last step that is kept in the next, in Muon.
        betas: Decay rates of the running means of the gradient and of its square, in AdamW.
        weight_decay: Decoupled weight decay: each step shrinks the weights by this fraction times
            the learning rate.

    Raises:
        UsageError: The model has no hidden weight matrix to train.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3))
        >>> [type(optimizer).__name__ for optimizer in muon(model)]
        ['Muon', 'AdamW']
    """
    hidden = _hidden_matrices(module)
    if not hidden:
        raise UsageError(
            "optimizer 'muon' expected a weight matrix between the first and the last layer, and "
            "this model has none; use optimizer 'adamw'"
        )
    chosen = {id(parameter) for parameter in hidden}
    rest = [parameter for parameter in module.parameters() if id(parameter) not in chosen]
    return (
        _unwrapped(torch.optim.Muon)(
            hidden,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        _adamw(parameter_groups(rest, weight_decay), lr, betas, 1e-8),
    )


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> Groups:
    """Return two groups of trainable parameters: weights, and biases and norms without decay.

    A weight has two or more dimensions. Empty groups are omitted.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    weights = [parameter for parameter in trainable if parameter.ndim >= 2]
    others = [parameter for parameter in trainable if parameter.ndim < 2]
    groups = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _adamw(groups: Groups, lr: float, betas: tuple[float, float], eps: float) -> Optimizer:
    return _unwrapped(torch.optim.AdamW)(groups, lr=lr, betas=betas, eps=eps, fused=_fused(groups))


_WRAPPED = ("step", "zero_grad", "add_param_group", "state_dict", "load_state_dict")


@cache
def _unwrapped(kind: type[Optimizer]) -> Any:
    """Return a subclass of an optimizer without the wrappers that delay its steps.

    torch wraps these methods to exclude them from compilation, and each wrapper imports the whole
    compiler, which takes most of a second. The wrapped functions need no wrapper where nothing
    compiles them; `step` still disables gradients. torch also wraps `step` in a profiler annotation
    and in hooks, which take as long as the fused step of a small network.
    """
    original: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in _WRAPPED}
    plain = torch.no_grad()(original["step"])
    with_hooks = Optimizer.profile_hook_step(plain)
    global_hooks = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)

    def step(self: Optimizer, closure: Callable[[], float] | None = None) -> float | None:
        hooks = (*global_hooks, self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks)
        return (with_hooks if any(hooks) else plain)(self, closure)

    def zero_grad(self: Optimizer, set_to_none: bool = True) -> None:
        if not set_to_none:
            return original["zero_grad"](self, set_to_none)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    vars(step)["hooked"] = True  # as torch marks a method that it must not wrap again
    return type(kind.__name__, (kind,), {**original, "step": step, "zero_grad": zero_grad})


def _fused(groups: Groups) -> bool | None:
    """Return True where one kernel can compute the whole step, else None, torch's own choice.

    On a CPU the fused step of a 784-128-10 perceptron takes a quarter of the unfused time.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    fused = all(
        parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda")
        for parameter in parameters
    )
    return fused or None


def _hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """Return the trainable matrices, without embeddings and the first and the last weight."""
    embeddings = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding)}
    weights = [parameter for parameter in module.parameters() if parameter.ndim >= 2]
    return [
        weight
        for weight in weights[1:-1]
        if weight.ndim == 2 and weight.requires_grad and id(weight) not in embeddings
    ]
