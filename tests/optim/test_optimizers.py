from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable

import pytest
import torch
from torch import nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

import dltrain.optim.optimizers  # noqa: F401  (registers them)
from dltrain.core.errors import UsageError
from dltrain.core.registry import OPTIMIZERS
from dltrain.distributed.fsdp import total_norm


class Net(nn.Module):
    """An embedding, a convolution, two hidden matrices, norms and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.convolution = nn.Conv1d(1, 2, 3)
        self.norm = nn.LayerNorm(12)
        self.hidden = nn.Linear(12, 16)
        self.deeper = nn.Linear(16, 12)
        self.head = nn.Linear(12, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        features = self.convolution(self.embedding(tokens)[:, None]).flatten(1)
        return self.head(self.deeper(self.hidden(self.norm(features)).tanh()).tanh())


def as_tuple(built: Optimizer | tuple[Optimizer, ...]) -> tuple[Optimizer, ...]:
    return built if isinstance(built, tuple) else (built,)


def names(net: nn.Module, parameters: Iterable[nn.Parameter]) -> set[str]:
    of = {id(parameter): name for name, parameter in net.named_parameters()}
    return {of[id(parameter)] for parameter in parameters}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_weights_decay(name: str) -> None:
    net = Net()
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for optimizer in as_tuple(OPTIMIZERS[name].builder(net, weight_decay=0.25)):
        for group in optimizer.param_groups:
            assert group["weight_decay"] in (0.0, 0.25)
            (decayed if group["weight_decay"] else others).extend(group["params"])
    weights = {n for n, p in net.named_parameters() if n.endswith("weight") and n != "norm.weight"}
    assert names(net, decayed) == weights
    assert names(net, others) == {n for n, _ in net.named_parameters()} - weights
    assert len(decayed) + len(others) == len(list(net.parameters()))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_are_left_out(name: str) -> None:
    net = Net()
    net.hidden.requires_grad_(False)
    groups = [g for o in as_tuple(OPTIMIZERS[name].builder(net)) for g in o.param_groups]
    given = names(net, [parameter for group in groups for parameter in group["params"]])
    assert given == {n for n, p in net.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_reduces_a_small_problems_loss(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = Net().to(dtype)
    tokens, targets = torch.arange(5), torch.tensor([0, 1, 1, 0, 1])
    optimizers = as_tuple(OPTIMIZERS[name].builder(net, lr=0.02))
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(net(tokens), targets)
        losses.append(loss.item())
        net.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_textbooks_update(nesterov: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    optimizer = OPTIMIZERS["sgd"].builder(
        layer, lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.05
    )
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    velocity, bias_velocity = torch.zeros_like(weight), torch.zeros_like(bias)
    for _ in range(4):
        grads = torch.randn_like(weight), torch.randn_like(bias)
        layer.weight.grad, layer.bias.grad = grads[0].clone(), grads[1].clone()
        optimizer.step()
        grad = grads[0] + 0.05 * weight
        velocity = 0.9 * velocity + grad
        bias_velocity = 0.9 * bias_velocity + grads[1]
        weight = weight - 0.1 * (grad + 0.9 * velocity if nesterov else velocity)
        bias = bias - 0.1 * (grads[1] + 0.9 * bias_velocity if nesterov else bias_velocity)
    torch.testing.assert_close(layer.weight.detach(), weight)
    torch.testing.assert_close(layer.bias.detach(), bias)


@pytest.mark.parametrize(
    ("name", "reference"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("rmsprop", torch.optim.RMSprop)],
)
def test_the_fast_form_takes_the_plain_forms_steps(name: str, reference: type) -> None:
    torch.manual_seed(0)
    mine, plain = nn.Linear(6, 4, bias=False), nn.Linear(6, 4, bias=False)
    plain.load_state_dict(mine.state_dict())
    optimizers = (
        OPTIMIZERS[name].builder(mine, lr=0.01, weight_decay=0.1),
        reference(plain.parameters(), lr=0.01, weight_decay=0.1, foreach=False),
    )
    for _ in range(5):
        gradient = torch.randn(4, 6)
        for layer, optimizer in zip((mine, plain), optimizers, strict=True):
            layer.weight.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(mine.weight, plain.weight)


def test_complex_parameters_are_trained() -> None:
    layer = nn.Linear(3, 2, bias=False, dtype=torch.complex64)
    optimizer = OPTIMIZERS["adamw"].builder(layer, lr=0.1)
    before = layer.weight.detach().clone()
    layer(torch.ones(1, 3, dtype=torch.complex64)).abs().sum().backward()
    optimizer.step()
    assert not torch.equal(layer.weight, before)


def test_muon_takes_hidden_matrices_and_adamw_the_rest() -> None:
    net = Net()
    optimizers = OPTIMIZERS["muon"].builder(net)
    of_muon, of_adamw = (
        names(net, [p for group in optimizer.param_groups for p in group["params"]])
        for optimizer in optimizers
    )
    for optimizer, kind in zip(optimizers, (torch.optim.Muon, torch.optim.AdamW), strict=True):
        assert isinstance(optimizer, kind)
    assert of_muon == {"hidden.weight", "deeper.weight"}
    assert of_muon | of_adamw == {name for name, _ in net.named_parameters()}
    assert not of_muon & of_adamw


def test_muon_without_hidden_matrices_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(UsageError, match=r"'muon'.*'adamw'"):
        OPTIMIZERS["muon"].builder(net)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(UsageError, match="'nesterov: true' needs a momentum"):
        OPTIMIZERS["sgd"].builder(nn.Linear(2, 2), momentum=0.0, nesterov=True)


NAMES = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_torch(name: str) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(6, 4), nn.Linear(6, 4)
    theirs.load_state_dict(ours.state_dict())
    mine = OPTIMIZERS[name].builder(ours, lr=0.01, weight_decay=0.0)
    options = {"momentum": 0.9} if name == "sgd" else {}
    plain = getattr(torch.optim, NAMES[name])(
        theirs.parameters(), lr=0.01, weight_decay=0.0, **options
    )
    for _ in range(5):
        inputs = torch.randn(8, 6)
        for layer, optimizer in ((ours, mine), (theirs, plain)):
            optimizer.zero_grad()
            layer(inputs).square().sum().backward()
            optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.requires_grad
        torch.testing.assert_close(one, other)
    state = mine.state_dict()
    mine.load_state_dict(state)
    assert mine.state_dict()["state"].keys() == state["state"].keys()


def test_a_step_does_not_load_the_compiler() -> None:
    script = """
import sys
import torch
from torch import nn
import dltrain.optim.optimizers
from dltrain.core.registry import OPTIMIZERS
from dltrain.distributed.fsdp import total_norm
model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
for name in OPTIMIZERS:
    made = OPTIMIZERS[name].builder(model)
    for optimizer in made if isinstance(made, tuple) else (made,):
        model(torch.randn(3, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False"


def test_a_hook_for_all_optimizers_is_called():
    from torch.optim.optimizer import (
        register_optimizer_step_post_hook,
        register_optimizer_step_pre_hook,
    )

    layer = nn.Linear(2, 1)
    optimizer = OPTIMIZERS["adamw"].builder(layer)
    calls = []
    hooks = [
        register_optimizer_step_pre_hook(lambda *_: calls.append("before")),
        register_optimizer_step_post_hook(lambda *_: calls.append("after")),
    ]
    try:
        layer(torch.ones(2)).sum().backward()
        optimizer.step()
    finally:
        for hook in hooks:
            hook.remove()
    optimizer.step()
    assert calls == ["before", "after"]


def test_a_hook_around_a_step_is_called():
    """Of one's own; without one, torch's mark for profilers is left out too."""
    module = nn.Linear(3, 2)
    optimizer = OPTIMIZERS["adamw"].builder(module)
    calls = []
    before = optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert calls == ["before", "after"]
    before.remove()
    optimizer.step()
    assert calls == ["before", "after", "after"]


@pytest.mark.parametrize(
    "gradients",
    [
        [],
        [torch.tensor(-3.0)],
        [torch.randn(50, 7), torch.randn(7), torch.randn(3, 2, 5).to(torch.float64)],
        [torch.randn(50, 7), torch.randn(7), torch.randn(4, 3, 5, 5)],
        [torch.full((4,), 1e30), torch.tensor([float("nan")])],
    ],
)
def test_the_norm_of_all_gradients_is_torchs_to_the_bit(gradients):
    expected = get_total_norm(gradients)
    assert torch.equal(total_norm(gradients), expected) or expected.isnan()
    assert total_norm(gradients).dtype == expected.dtype
