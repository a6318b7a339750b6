"""Optimizers: torch's, with weight decay on weights alone and in their fastest form."""

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
    """Stochastic gradient descent, with momentum.

    Args:
        lr: Learning rate.
        momentum: How much of the last step is kept in the next.
        nesterov: Look ahead along the momentum (Sutskever et al., 2013).
        weight_decay: Multiple of the weights added to their gradients.

    Raises:
        UsageError: nesterov without momentum.
    """
    if nesterov and momentum == 0:
        raise UsageError("'nesterov: true' needs a momentum above 0, such as 0.9")
    groups = parameter_groups(module.parameters(), weight_decay)
    sharded = any(hasattr(parameter, "full_tensor") for parameter in module.parameters())
    fused = None if sharded else _has_fused_form(groups)  # torch has none for shards
    optimizer = _quick(torch.optim.SGD)(
        groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused
    )
    if momentum > 0:
        # The fused form leaves them uninitialised where the gradient scaler skips the first step.
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
        weight_decay: Multiple of the weights added to their gradients; adamw's is usually better.
    """
    groups = parameter_groups(module.parameters(), weight_decay)
    return _quick(torch.optim.Adam)(
        groups, lr=lr, betas=betas, eps=eps, fused=_has_fused_form(groups)
    )


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
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter, 2019).

    Args:
        lr: Learning rate.
        betas: Decay rates of the running means of the gradient and of its square.
        eps: Added to the denominator.
        weight_decay: Share of the weights, times the learning rate, taken off them at each step.
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
        momentum: How much of the last step is kept in the next.
        eps: Added to the denominator.
        weight_decay: Multiple of the weights added to their gradients.
    """
    # torch has no fused form; the one over lists of tensors is faster than a loop on a CPU too.
    groups = parameter_groups(module.parameters(), weight_decay)
    return _quick(torch.optim.RMSprop)(
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
    """Orthogonalised momentum for hidden weight matrices, adamw for all else (Jordan et al., 2024).

    All else is the first and the last layer, embeddings, convolutions, biases and norms. Muon's
    step is scaled to the size of adamw's (Liu et al., 2025), so that one rate serves both.

    Args:
        lr: Learning rate of both.
        momentum: How much of the last step is kept in the next, in Muon.
        betas: Decay rates of the running means of the gradient and of its square, in adamw.
        weight_decay: Share of the weights, times the learning rate, taken off them at each step.

    Raises:
        UsageError: The model has no hidden weight matrix to train.
    """
    hidden = _hidden_matrices(module)
    if not hidden:
        raise UsageError(
            "optimizer 'muon' trains weight matrices between a model's first and last layer, and "
            "this model has none: optimizer 'adamw' trains any model"
        )
    chosen = {id(parameter) for parameter in hidden}
    rest = [parameter for parameter in module.parameters() if id(parameter) not in chosen]
    return (
        _quick(torch.optim.Muon)(
            hidden,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        _adamw(parameter_groups(rest, weight_decay), lr, betas, 1e-8),
    )


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> Groups:
    """Trainable parameters in two groups: weights, which decay, and biases and norms, which don't.

    A weight has two or more dimensions. A group that would be empty is left out.
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
    return _quick(torch.optim.AdamW)(
        groups, lr=lr, betas=betas, eps=eps, fused=_has_fused_form(groups)
    )


_WRAPPED = ("step", "zero_grad", "add_param_group", "state_dict", "load_state_dict")


@cache
def _quick(kind: type[Optimizer]) -> Any:
    """The same optimizer, without what a first step, or any step, would wait for.

    Torch wraps these methods so that its compiler leaves them alone, and each wrapper loads the
    whole compiler to say so, for most of a second. The functions inside need no wrapper where
    nothing compiles them; `step` is to make no graph, as by default. Around `step` it also puts a
    mark for profilers, and hooks, which take as long as the fused step of a small network.
    """
    inside: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in _WRAPPED}
    plain = torch.no_grad()(inside["step"])
    with_hooks = Optimizer.profile_hook_step(plain)
    of_all = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)

    def step(self: Optimizer, closure: Callable[[], float] | None = None) -> float | None:
        hooks = (*of_all, self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks)
        return (with_hooks if any(hooks) else plain)(self, closure)

    def zero_grad(self: Optimizer, set_to_none: bool = True) -> None:
        if not set_to_none:
            return inside["zero_grad"](self, set_to_none)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    vars(step)["hooked"] = True  # as torch marks it: it is not to be wrapped again
    return type(kind.__name__, (kind,), {**inside, "step": step, "zero_grad": zero_grad})


def _has_fused_form(groups: Groups) -> bool | None:
    """True where one kernel can make the whole step, else None, which leaves the choice to torch.

    On a CPU the fused step of a 784-128-10 perceptron takes a quarter of the time of the others.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    fused = all(
        parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda")
        for parameter in parameters
    )
    return fused or None


def _hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """Trainable matrices, less the first and the last weight of the model and its embeddings."""
    embeddings = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding)}
    weights = [parameter for parameter in module.parameters() if parameter.ndim >= 2]
    return [
        weight
        for weight in weights[1:-1]
        if weight.ndim == 2 and weight.requires_grad and id(weight) not in embeddings
    ]
