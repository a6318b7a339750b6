from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional as F

import dltrain.losses  # noqa: F401  (registers them)
from dltrain.core.data_spec import Column, DataSpec, TableInputs
from dltrain.core.errors import UsageError
from dltrain.core.protocols import Loss
from dltrain.core.registry import LOSSES
from dltrain.losses.adversarial import AdversarialLoss

INPUTS = TableInputs((Column("x"),))
THREE = DataSpec((1,), 3, INPUTS, ("ant", "bee", "cat"), (10, 30, 20))
TWO = DataSpec((1,), 2, INPUTS, ("no", "yes"), (5, 15))
VALUES = DataSpec((1,), 2, INPUTS, target_mean=5.0, target_std=3.0)

OUTPUTS = torch.randn(17, 3, generator=torch.Generator().manual_seed(0)) * 3
TARGETS = torch.arange(17) % 3
WEIGHTS = (0.5, 2.0, 3.5)


# Those of a GAN compare nothing with targets; they are tested with it.
COMPARING = [
    name
    for name, loss in LOSSES.items()
    if not (isinstance(loss.builder, type) and issubclass(loss.builder, AdversarialLoss))
]


def weighted_mean(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """As the trainer takes it, over uneven slices."""
    slices = list(zip(outputs.split(5), targets.split(5), strict=True))
    return sum(loss(o, t).sum() for o, t in slices) / sum(loss.weight(t) for _, t in slices)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_cross_entropy_has_torchs_mean(
    label_smoothing: float, class_weights: tuple[float, ...] | None
) -> None:
    loss = LOSSES["cross_entropy"].builder(
        THREE, label_smoothing=label_smoothing, class_weights=class_weights
    )
    weight = None if class_weights is None else torch.tensor(class_weights)
    expected = F.cross_entropy(OUTPUTS, TARGETS, weight, label_smoothing=label_smoothing)
    torch.testing.assert_close(weighted_mean(loss, OUTPUTS, TARGETS), expected)
    assert loss(OUTPUTS, TARGETS).shape == (17,)
    assert loss.num_outputs == 3


def test_balanced_weights_are_scikit_learns() -> None:
    loss = LOSSES["cross_entropy"].builder(THREE, class_weights="balanced")
    labels = [0] * 10 + [1] * 30 + [2] * 20
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    torch.testing.assert_close(loss.class_weights.double(), torch.tensor(expected))
    assert not loss.state_dict()


@pytest.mark.parametrize("counts", [(10, 0, 20), ()])
def test_balanced_weights_need_every_class(counts: tuple[int, ...]) -> None:
    spec = DataSpec((1,), 3, INPUTS, ("ant", "bee", "cat"), counts)
    with pytest.raises(UsageError, match=r"'class_weights: balanced' needs.*\["):
        LOSSES["cross_entropy"].builder(spec, class_weights="balanced")


def test_wrong_number_of_class_weights_is_refused() -> None:
    with pytest.raises(UsageError, match=r"expected 3 class_weights, got 2.*ant, bee, cat"):
        LOSSES["cross_entropy"].builder(THREE, class_weights=(1.0, 2.0))


def test_cross_entropy_predicts_probabilities_and_keeps_targets() -> None:
    loss = LOSSES["cross_entropy"].builder(THREE)
    torch.testing.assert_close(loss.predict(OUTPUTS), OUTPUTS.softmax(1))
    assert loss.targets(TARGETS) is TARGETS


def test_bce_of_two_classes_has_one_output() -> None:
    loss = LOSSES["bce"].builder(TWO)
    assert loss.num_outputs == 1
    outputs, targets = OUTPUTS[:, :1], TARGETS % 2
    expected = F.binary_cross_entropy_with_logits(outputs[:, 0], targets.float())
    torch.testing.assert_close(weighted_mean(loss, outputs, targets), expected)
    probabilities = loss.predict(outputs)
    torch.testing.assert_close(probabilities[:, 1], outputs[:, 0].sigmoid())
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(17))


def test_bce_of_more_classes_sets_each_against_the_rest() -> None:
    loss = LOSSES["bce"].builder(THREE)
    assert loss.num_outputs == 3
    expected = F.binary_cross_entropy_with_logits(OUTPUTS, F.one_hot(TARGETS, 3).float())
    torch.testing.assert_close(weighted_mean(loss, OUTPUTS, TARGETS), expected)
    torch.testing.assert_close(loss.predict(OUTPUTS), OUTPUTS.sigmoid())


@pytest.mark.parametrize(
    ("name", "options", "function"),
    [
        ("mse", {}, F.mse_loss),
        ("l1", {}, F.l1_loss),
        ("huber", {}, F.huber_loss),
        ("huber", {"delta": 0.3}, lambda o, t: F.huber_loss(o, t, delta=0.3)),
    ],
)
def test_regression_losses_have_torchs_mean(name: str, options: dict, function) -> None:
    loss = LOSSES[name].builder(VALUES, **options)
    outputs, targets = OUTPUTS[:, :2], OUTPUTS[:, 1:].flip(0)
    torch.testing.assert_close(weighted_mean(loss, outputs, targets), function(outputs, targets))
    assert loss(outputs, targets).shape == (17,)
    assert loss.num_outputs == 2


def test_regression_goes_back_to_the_datas_units() -> None:
    loss = LOSSES["mse"].builder(VALUES)
    standardised = torch.tensor([[-1.0, 0.0], [2.0, 1.0]])
    own_units = torch.tensor([[2.0, 5.0], [11.0, 8.0]])
    assert torch.equal(loss.predict(standardised), own_units)
    assert torch.equal(loss.targets(standardised), own_units)


@pytest.mark.parametrize("name", COMPARING)
def test_half_precision_outputs_are_widened_and_double_ones_kept(name: str) -> None:
    regression = name in ("mse", "l1", "huber")
    loss = LOSSES[name].builder(VALUES if regression else THREE)
    outputs = OUTPUTS[:, : loss.num_outputs]
    for given, wanted in [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ]:
        targets = torch.zeros(17, 2, dtype=wanted) if regression else TARGETS
        assert loss(outputs.to(given), targets).dtype is wanted
        assert loss.predict(outputs.to(given)).dtype is wanted


@pytest.mark.parametrize("name", COMPARING)
def test_losses_refuse_data_of_the_other_kind(name: str) -> None:
    wrong = THREE if name in ("mse", "l1", "huber") else VALUES
    with pytest.raises(UsageError, match=f"loss '{name}' expected .* use '"):
        LOSSES[name].builder(wrong)
