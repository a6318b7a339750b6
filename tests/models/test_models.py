"""What every registered model must do, whatever its family."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dltrain.models  # noqa: F401  (registers them)
from dltrain.core.data_spec import (
    PADDING,
    UNKNOWN,
    Column,
    DataSpec,
    ImageInputs,
    TableInputs,
    TextInputs,
)
from dltrain.core.registry import MODELS
from dltrain.models import layers


def images(*shape: int, num_outputs: int = 10) -> DataSpec:
    inputs = ImageInputs(mean=(0.0,) * shape[0], std=(1.0,) * shape[0])
    return DataSpec(shape, num_outputs, inputs, tuple("abcdefghij"[:num_outputs]))


def table(features: int, num_outputs: int) -> DataSpec:
    columns = tuple(Column(f"x{i}") for i in range(features))
    return DataSpec((features,), num_outputs, TableInputs(columns))


def text(tokens: int, num_outputs: int) -> DataSpec:
    inputs = TextInputs("word", ("<pad>", "<unk>", *"abcdefghijkl"), max_tokens=tokens or None)
    return DataSpec((tokens,), num_outputs, inputs, tuple("abcdefghij"[:num_outputs]))


ANY_SHAPE = [images(1, 28, 28), images(3, 32, 40, num_outputs=3), table(4, 1)]
PICTURES = ANY_SHAPE[:2]
TEXTS = [text(9, num_outputs=3), text(0, num_outputs=2)]

# A model that needs options, or can't take every shape, says so here; a new one is tried on all.
CASES: dict[str, tuple[dict[str, object], list[DataSpec]]] = {
    "autoencoder": ({}, []),  # gives its inputs back; tested with its task
    "cnn": ({"dropout": 0.0}, PICTURES),
    "dcgan": ({}, []),  # two models in one; tested on their own
    "gan_mlp": ({}, []),
    "gpt": ({}, []),  # an output a token; tested with the language models
    "seq2seq_lstm": ({}, []),  # takes two inputs; tested with its task
    "text_cnn": ({"dropout": 0.0}, TEXTS),
    "text_generator": ({}, []),
    "text_lstm": ({"dropout": 0.0}, TEXTS),
    "text_transformer": ({"dropout": 0.0}, TEXTS),
    "torchvision": ({"arch": "resnet18", "small_input": True}, PICTURES),
}
MODELS_AND_SPECS = [
    pytest.param(name, spec, id=f"{name}-{'x'.join(map(str, spec.input_shape))}")
    for name in MODELS
    for spec in CASES.get(name, ({}, ANY_SHAPE))[1]
]
every_model = pytest.mark.parametrize(("name", "spec"), MODELS_AND_SPECS)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def build(name: str, spec: DataSpec) -> nn.Module:
    return MODELS[name].builder(spec, **CASES.get(name, ({}, []))[0])


def samples(spec: DataSpec, batch: int) -> Tensor:
    if spec.inputs.kind != "text":
        return torch.randn(batch, *spec.input_shape)
    lengths = torch.arange(batch) % 7 + 1  # each sample shorter than the batch is padded
    tokens = torch.randint(UNKNOWN, len(spec.inputs.vocabulary), (batch, 9))
    return tokens.where(torch.arange(9) < lengths[:, None], PADDING)


def batch_loss(model: nn.Module, inputs: Tensor, spec: DataSpec) -> Tensor:
    outputs = model(inputs)
    if spec.num_classes == 0:
        return F.mse_loss(outputs, inputs.flatten(1)[:, : spec.num_outputs])
    return F.cross_entropy(outputs, torch.arange(len(inputs)) % spec.num_classes)


@every_model
def test_outputs_have_the_specs_width(name: str, spec: DataSpec) -> None:
    model = build(name, spec).eval()
    for batch in (1, 3):
        assert model(samples(spec, batch)).shape == (batch, spec.num_outputs)


@every_model
def test_gradients_reach_every_trainable_parameter(name: str, spec: DataSpec) -> None:
    model = build(name, spec)
    batch_loss(model, samples(spec, 4), spec).backward()
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, path
            assert parameter.grad.isfinite().all(), path
            assert parameter.grad.count_nonzero() > 0, path


@every_model
def test_one_batch_can_be_learned_by_heart(name: str, spec: DataSpec) -> None:
    model = build(name, spec)
    inputs = samples(spec, 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03 if spec.num_classes == 0 else 3e-3)
    first = batch_loss(model, inputs, spec).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = batch_loss(model, inputs, spec)
        loss.backward()
        optimizer.step()
        if loss.item() < 0.1 * first:
            break
    assert loss.item() < 0.1 * first


@every_model
def test_state_dict_restores_the_outputs(name: str, spec: DataSpec) -> None:
    model, other = build(name, spec).eval(), build(name, spec).eval()
    inputs = samples(spec, 2)
    assert not torch.equal(model(inputs), other(inputs))
    other.load_state_dict(copy.deepcopy(model.state_dict()), strict=True)
    assert torch.equal(model(inputs), other(inputs))


def test_linear_is_an_affine_map_of_the_flattened_sample() -> None:
    spec = images(1, 3, 4)
    model = MODELS["linear"].builder(spec, bias=False)
    (weight,) = model.parameters()
    inputs = torch.randn(5, 1, 3, 4)
    torch.testing.assert_close(model(inputs), inputs.flatten(1) @ weight.T)
    zeros = MODELS["linear"].builder(spec, init="zeros")
    assert torch.equal(zeros(inputs), torch.zeros(5, 10))


def test_mlp_widths_and_normalisation() -> None:
    model = MODELS["mlp"].builder(table(4, 2), hidden=(8, 6), batch_norm=True, activation="tanh")
    shapes = {tuple(p.shape) for p in model.parameters() if p.ndim == 2}
    assert shapes == {(8, 4), (6, 8), (2, 6)}
    hidden = model[:3](torch.randn(200, 4) * 50 + 7)
    torch.testing.assert_close(hidden.mean(dim=0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(hidden.var(dim=0, correction=0), torch.ones(8), atol=1e-4, rtol=0)


def test_mlp_without_hidden_layers_is_linear() -> None:
    model = MODELS["mlp"].builder(table(4, 2), hidden=())
    assert sum(p.numel() for p in model.parameters()) == 4 * 2 + 2


def test_mlp_drops_units_in_training_only() -> None:
    model = MODELS["mlp"].builder(table(4, 2), dropout=0.5)
    inputs = torch.randn(3, 4)
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


@pytest.mark.parametrize(
    ("scheme", "std"),
    [("xavier", math.sqrt(2 / (400 + 300))), ("kaiming", math.sqrt(2 / 400)), ("zeros", 0.0)],
)
def test_initialisation_has_the_papers_standard_deviation(scheme: layers.Init, std: float) -> None:
    layer = nn.Linear(400, 300)
    layers.initialize_weights(layer, scheme)
    assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
    assert layer.bias.count_nonzero() == 0


def test_orthogonal_rows_are_orthonormal() -> None:
    layer = nn.Linear(40, 30)
    layers.initialize_weights(layer, "orthogonal")
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(30), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu", "gelu", "silu"])
def test_activations_and_whether_they_ever_fall(name: layers.Activation) -> None:
    function = layers.activation_layer(name)
    inputs = torch.linspace(-6, 6, 2001)
    torch.testing.assert_close(
        function(inputs), getattr(F if name in ("gelu", "silu") else torch, name)(inputs)
    )
    falls = any(a > b for a, b in itertools.pairwise(function(inputs).tolist()))
    assert layers.is_monotonic(name) is not falls


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.99, 0.9999999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    dropout = layers.Dropout(share)
    inputs = torch.full((401, 499), 3.0, dtype=dtype, requires_grad=True)  # no multiple of 4
    outputs = dropout(inputs)
    kept = (outputs != 0).double().mean().item()
    deviation = math.sqrt(share * (1 - share) / inputs.numel())
    assert abs(kept - (1 - share)) <= 4 * deviation + 2**-16
    assert outputs.unique().numel() <= 2  # nothing but zero and the scaled value
    expected = 3.0 if share < 0.999 else None  # where next to nothing is left, the mean is noise
    if expected is not None:
        error = 3 * 4 * deviation / (1 - share) + (0.02 if dtype == torch.bfloat16 else 1e-4)
        assert abs(outputs.double().mean().item() - expected) < error
    outputs.sum().backward()
    torch.testing.assert_close(inputs.grad * 3, outputs.detach())
    assert dropout.eval()(inputs) is inputs


def test_dropout_decides_about_each_element_by_itself() -> None:
    torch.manual_seed(0)
    dropout = layers.Dropout(0.5)
    kept = torch.stack([dropout(torch.ones(64)) for _ in range(4000)]) != 0
    correlation = torch.corrcoef(kept.double().T) - torch.eye(64)
    assert correlation.abs().max() < 5 / math.sqrt(4000)
    assert (kept.double().mean(0) - 0.5).abs().max() < 4 * 0.5 / math.sqrt(4000)
