"""Synthetic data follow their formulas."""

import math

import pytest
import torch
from samples import gather

TOYS = ["toy_line", "toy_sine", "toy_blobs", "toy_spirals"]


@pytest.mark.parametrize("name", TOYS)
def test_splits_and_seeds(build, name):
    data = build(name, samples=200, validation=20, test=0.1)
    assert (len(data.train), len(data.validation), len(data.test)) == (160, 20, 20)
    batch = next(data.train.batches(16, epoch=0))
    assert batch.inputs.shape == (16, *data.spec.input_shape)
    assert batch.inputs.dtype == torch.float32
    again = build(name, samples=200, validation=20, test=0.1)
    assert torch.equal(gather(again.train)[0], gather(data.train)[0])
    assert again.fingerprint == data.fingerprint
    assert build(name, samples=200, seed=1).fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("name", "formula"), [("toy_line", lambda x: 2 * x + 1), ("toy_sine", torch.sin)]
)
def test_curves_follow_their_formula(build, name, formula):
    x, y, _ = gather(build(name, noise=0.0, samples=300).train)
    assert torch.allclose(y, formula(x), atol=1e-6)
    x, y, _ = gather(build(name, noise=0.5, samples=3000).train)
    assert (y - formula(x)).std().item() == pytest.approx(0.5, rel=0.05)


def test_blobs_have_their_centers_on_a_circle(build):
    data = build("toy_blobs", classes=4, noise=0.0, validation=0, test=0)
    x, y, _ = gather(data.train)
    angle = y * math.pi / 2
    assert torch.allclose(x, torch.stack([angle.cos(), angle.sin()], 1), atol=1e-6)
    assert data.spec.class_counts == (250,) * 4


def test_spirals_have_the_requested_turns(build):
    data = build("toy_spirals", classes=3, turns=2.0, noise=0.0, samples=300, validation=0, test=0)
    x, y, _ = gather(data.train)
    radius = x.norm(dim=1)
    angle = torch.atan2(x[:, 1], x[:, 0])
    turned = angle / (2 * math.pi) - 2 * radius - y / 3  # a whole number of turns
    assert radius.max() <= 1
    assert (turned - turned.round()).abs().max() < 1e-4
