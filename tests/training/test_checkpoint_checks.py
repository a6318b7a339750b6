"""Tensors of a checkpoint, compared with what the model and the optimizers expect."""

import copy
import json
from functools import partial

import pytest
import torch
from torch import nn

from dltrain.checkpoints.snapshot import pack_optimizers, unpack_optimizers
from dltrain.config.plugins import register_builtins
from dltrain.core.registry import OPTIMIZERS
from dltrain.core.task import Phase
from dltrain.optim.schedules import constant
from dltrain.training.checkpoint_checks import (
    check_optimizers,
    check_random_states,
    check_tensors,
)
from dltrain.training.device import random_state

register_builtins()

OTHERS = ("Adadelta", "Adagrad", "Adamax", "NAdam", "RAdam", "Rprop", "ASGD", "Adafactor")


class Own(torch.optim.Adam):
    """A user's own optimizer, with more state than the one that it is made of."""

    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter in self.state:
                    self.state[parameter]["drift"] = torch.zeros(3, dtype=torch.float64)


def makers():
    made = {name: OPTIMIZERS[name].builder for name in OPTIMIZERS}
    made["sgd, no momentum"] = partial(made["sgd"], momentum=0.0)
    made["rmsprop, momentum"] = partial(made["rmsprop"], momentum=0.9)
    for name in OTHERS:
        kind = getattr(torch.optim, name)
        made[f"torch's {name}"] = lambda module, kind=kind: kind(module.parameters())
    made["amsgrad"] = lambda module: torch.optim.AdamW(module.parameters(), amsgrad=True)
    made["a user's own"] = lambda module: Own(module.parameters())
    return made


MAKERS = makers()


def phase_of(name: str, steps: int = 2, dtype: torch.dtype = torch.float32) -> Phase:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 3)).to(dtype)
    module[3].bias.requires_grad_(False)
    optimizers = MAKERS[name](module)
    if not isinstance(optimizers, tuple):
        optimizers = (optimizers,)
    for _ in range(steps):
        module(torch.randn(6, 5, dtype=dtype)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return Phase("main", module, optimizers, constant(), None)


def tampered(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensor, made into others."""
    made = {
        "empty": tensor.new_zeros(0),
        "one number": tensor.new_zeros(1) if tensor.ndim != 1 or len(tensor) > 1 else None,
        "one more dimension": tensor[None],
        "twice as long": torch.stack([tensor, tensor]),
        "int64": tensor.long(),
        "half": tensor.half(),
        "complex": tensor.to(torch.complex64),
        "bool": tensor.bool(),
    }
    if tensor.ndim == 2 and tensor.shape[0] != tensor.shape[1]:
        made["transposed"] = tensor.T.contiguous()
    if tensor.ndim and len(tensor) > 1:
        made["a row less"] = tensor[1:].clone()
    return {name: other for name, other in made.items() if other is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", MAKERS)
def test_what_an_optimizer_saves_is_what_it_expects(name, steps, dtype):
    phase = phase_of(name, steps, dtype)
    packed = pack_optimizers([phase])
    fresh = phase_of(name, 0, dtype)
    check_optimizers([fresh], packed)
    unpack_optimizers([fresh], packed)
    assert pack_optimizers([fresh]).keys() == packed.keys()


@pytest.mark.parametrize("name", MAKERS)
def test_a_tampered_state_is_named(name):
    packed = pack_optimizers([phase_of(name)])
    fresh = phase_of(name, 0)
    before = torch.random.get_rng_state()
    for key, tensor in packed.items():
        for kind, other in tampered(tensor).items():
            with pytest.raises(ValueError, match="optimizer state: ") as caught:
                check_optimizers([fresh], {**packed, key: other})
            assert key in str(caught.value), kind
            assert "expected" in str(caught.value)
            assert str(caught.value).isprintable()
        less = {other: value for other, value in packed.items() if other != key}
        whole = [other for other in packed if other.rpartition("/")[0] == key.rpartition("/")[0]]
        if len(whole) > 1:
            with pytest.raises(ValueError, match=f"{key} is missing"):
                check_optimizers([fresh], less)
        if key.endswith("/step"):
            for value in (-1.0, 0.5, float("nan"), float("inf"), -float("inf")):
                with pytest.raises(ValueError, match="expected a number of steps"):
                    check_optimizers([fresh], {**packed, key: torch.full_like(tensor, value)})
    for key in ("main/0/nobody.weight/exp_avg", "main/9/0.weight/step", "x", "main/0/0.weight/y\n"):
        with pytest.raises(ValueError, match=r"expected no tensor of this name|is missing"):
            check_optimizers([fresh], {**packed, key: torch.zeros(3)})
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_state_that_the_optimizer_has_from_the_start_may_not_be_absent():
    packed = pack_optimizers([phase_of("sgd")])
    with pytest.raises(ValueError, match=r"main/0/0\.weight/momentum_buffer is missing"):
        check_optimizers([phase_of("sgd", 0)], {})
    assert packed


def test_weights_have_the_names_shapes_and_dtypes_of_the_model():
    module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    check_tensors("model", weights, module.state_dict())
    for key, tensor in weights.items():
        for other in tampered(tensor).values():
            if (other.dtype, other.shape) == (tensor.dtype, tensor.shape):
                continue
            with pytest.raises(ValueError, match=f"model: {key} is .*; expected"):
                check_tensors("model", {**weights, key: other}, module.state_dict())
        less = {other: value for other, value in weights.items() if other != key}
        with pytest.raises(ValueError, match=f"model: {key} is missing"):
            check_tensors("model", less, module.state_dict())
    with pytest.raises(ValueError, match=r"\\x1b\[31m is float32 \(2\)"):
        check_tensors("model", {**weights, "\x1b[31m": torch.ones(2)}, module.state_dict())


def packed_json(value) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def unpacked(state: torch.Tensor):
    return json.loads(state.numpy().tobytes())


def test_random_states_are_those_of_generators():
    good = random_state()
    check_random_states(good)
    others = {f"rank1/{name}": state for name, state in good.items()}
    check_random_states({**good, **others, "rank1/cuda": torch.zeros(16, dtype=torch.uint8)})
    python, numpy = unpacked(good["python"]), unpacked(good["numpy"])
    bad = {
        "torch": [
            good["torch"][:-1],
            good["torch"].float(),
            good["torch"][None],
            good["torch"] * 0,
        ],
        "python": [
            packed_json(value)
            for value in (
                [],
                [2, *python[1:]],
                [3, python[1][1:], None],
                [3, [*python[1][:-1], 625], None],
                [3, [-1, *python[1][1:]], None],
                [3, [*python[1][:-1], True], None],
                [3, python[1], "x"],
                [[[]] * 9] * 9,
            )
        ],
        "numpy": [
            packed_json(value)
            for value in (
                {},
                numpy | {"bit_generator": "PCG64"},
                numpy | {"has_gauss": 2},
                numpy | {"gauss": None},
                numpy | {"state": {"key": [1], "pos": 3}},
                numpy | {"state": numpy["state"] | {"pos": 700}},
            )
        ],
        "cuda.0": [
            torch.zeros(15, dtype=torch.uint8),
            torch.tensor([0] * 8 + [3] + [0] * 7, dtype=torch.uint8),
            torch.full((16,), 255, dtype=torch.uint8),
        ],
        "nobody's": [good["torch"]],
        "rank1/x\n": [good["torch"]],
    }
    bad["python"] += [good["python"][:-3], torch.zeros(2**17, dtype=torch.uint8)]
    for name, states in bad.items():
        for state in states:
            with pytest.raises(ValueError, match="random state") as caught:
                check_random_states({**good, **others, name: state})
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 250
    for name in ("torch", "python", "numpy"):
        with pytest.raises(ValueError, match=f"random state {name} is missing"):
            check_random_states({n: s for n, s in good.items() if n != name})
        less = {n: s for n, s in others.items() if n != f"rank1/{name}"}
        with pytest.raises(ValueError, match=f"random state rank1/{name} is missing"):
            check_random_states({**good, **less})
    assert copy.deepcopy(good)["torch"].equal(random_state()["torch"])
