from __future__ import annotations

import pytest
import torch
from torch import nn

from dltrain.core.data_spec import Column, DataSpec, ImageInputs, TableInputs
from dltrain.core.errors import UsageError
from dltrain.models.cnn import cnn
from dltrain.models.layers import Activation, activation_layer


def image_spec(*shape: int) -> DataSpec:
    inputs = ImageInputs(mean=(0.0,) * shape[0], std=(1.0,) * shape[0])
    return DataSpec(shape, 10, inputs, tuple("abcdefghij"))


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "gelu", "silu"])
def test_equals_the_network_that_activates_before_it_pools(activation: Activation) -> None:
    torch.manual_seed(0)
    model = cnn(image_spec(1, 28, 28), activation=activation).eval()
    usual = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        activation_layer(activation),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        activation_layer(activation),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1600, 10),
    )
    for mine, theirs in zip(model.parameters(), usual.parameters(), strict=True):
        theirs.data.copy_(mine.data)
    inputs = torch.randn(4, 1, 28, 28)
    assert torch.equal(model(inputs), usual(inputs))
    model(inputs).square().sum().backward()
    usual(inputs).square().sum().backward()
    for mine, theirs in zip(model.parameters(), usual.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_has_the_size_of_keras_mnist_network() -> None:
    assert sum(p.numel() for p in cnn(image_spec(1, 28, 28)).parameters()) == 34_826


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 21), (2, 10, 46)])
@pytest.mark.parametrize(("padding", "kernel_size"), [("valid", 2), ("valid", 3), ("same", 5)])
def test_linear_layer_fits_odd_sizes(
    shape: tuple[int, ...], padding: str, kernel_size: int
) -> None:
    model = cnn(image_spec(*shape), channels=(3, 4), padding=padding, kernel_size=kernel_size)
    assert model(torch.randn(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 29, 31), (2, 30, 26), (3, 33, 21), (1, 10, 11)])
@pytest.mark.parametrize("kernel_size", [1, 2, 3])
def test_what_pooling_leaves_out_is_not_computed_and_changes_nothing(
    shape: tuple[int, ...], kernel_size: int
) -> None:
    torch.manual_seed(0)
    model = cnn(image_spec(*shape), channels=(3, 4), kernel_size=kernel_size, dropout=0.0)
    inputs = torch.randn(5, *shape)
    outputs, usual = model(inputs), nn.Sequential(*model)(inputs)
    torch.testing.assert_close(outputs, usual)
    weights = list(model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(outputs.square().sum(), weights),
        torch.autograd.grad(usual.square().sum(), weights),
    )


def test_batch_norm_comes_before_pooling_and_takes_the_bias_away() -> None:
    model = cnn(image_spec(1, 12, 12), channels=(4,), batch_norm=True)
    kinds = [type(layer) for layer in model]
    assert kinds.index(nn.BatchNorm2d) < kinds.index(nn.MaxPool2d)
    assert model[0].bias is None


def test_small_pictures_are_refused_with_the_number_of_stages_that_fit() -> None:
    with pytest.raises(UsageError, match="images of 8x28 are large enough for 1 of the 3 stages"):
        cnn(image_spec(1, 8, 28), channels=(4, 4, 4))
    cnn(image_spec(1, 8, 28), channels=(4,))


def test_same_padding_needs_an_odd_kernel() -> None:
    with pytest.raises(UsageError, match="'padding: same' expected an odd kernel_size, got 4"):
        cnn(image_spec(1, 28, 28), padding="same", kernel_size=4)


def test_tables_are_refused() -> None:
    spec = DataSpec((4,), 1, TableInputs((Column("x"),) * 4))
    with pytest.raises(UsageError, match=r"'cnn' expected images.*\(4,\).*'mlp'"):
        cnn(spec)
