from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch.optim import lr_scheduler

import dltrain.optim.schedules  # noqa: F401  (registers them)
from dltrain.core.registry import SCHEDULES

STEPS = 100
PROGRESS = [step / STEPS for step in range(STEPS)]


def torchs(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]) -> list[float]:
    """The rates that a scheduler of torch gives in each step, for a base rate of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def test_constant_is_1() -> None:
    assert {SCHEDULES["constant"].builder()(p) for p in PROGRESS} == {1.0}


def test_linear_is_torchs() -> None:
    expected = torchs(
        lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=STEPS)
    )
    factor = SCHEDULES["linear"].builder(final=0.1)
    assert [factor(p) for p in PROGRESS] == pytest.approx(expected)


def test_cosine_is_torchs() -> None:
    expected = torchs(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=STEPS, eta_min=0.05))
    factor = SCHEDULES["cosine"].builder(final=0.05)
    assert [factor(p) for p in PROGRESS] == pytest.approx(expected)


def test_step_is_torchs() -> None:
    expected = torchs(lambda o: lr_scheduler.MultiStepLR(o, milestones=[30, 70], gamma=0.2))
    factor = SCHEDULES["step"].builder(milestones=(0.3, 0.7), gamma=0.2)
    assert [factor(p) for p in PROGRESS] == pytest.approx(expected)


def test_one_cycle_is_torchs() -> None:
    # torch spreads a cycle over the intervals between its steps: 99, of which 29 rise.
    expected = torchs(lambda o: lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=STEPS + 1))
    factor = SCHEDULES["one_cycle"].builder(warmup=(0.3 * (STEPS + 1) - 1) / STEPS)
    assert [factor(p) for p in PROGRESS] == pytest.approx(expected)


def test_one_cycle_begins_and_ends_as_told() -> None:
    factor = SCHEDULES["one_cycle"].builder(warmup=0.25, start=0.1, final=0.02)
    assert [factor(0.0), factor(0.25), factor(1.0)] == pytest.approx([0.1, 1.0, 0.02])


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.2, 1.0])
def test_warmup_rises_to_the_base_rate(name: str, warmup: float) -> None:
    factor = SCHEDULES[name].builder(warmup=warmup)
    rising = [factor(p) for p in PROGRESS if p <= warmup and p < 0.5]
    assert all(a < b for a, b in itertools.pairwise(rising))
    if name != "step" or warmup < 0.5:  # a milestone inside the warm-up lowers the rate
        assert factor(warmup) == pytest.approx(1.0)
    if warmup > 0:
        assert 0 < factor(0.0) < 0.05
    assert all(0 <= factor(p) <= 1 for p in PROGRESS)


def test_decay_takes_what_the_warmup_leaves() -> None:
    factor, whole = (SCHEDULES["cosine"].builder(warmup=w) for w in (0.2, 0.0))
    assert factor(0.6) == pytest.approx(whole(0.5))
    stepped = SCHEDULES["step"].builder(milestones=(0.5,), warmup=0.2)
    assert [stepped(0.49), stepped(0.5)] == pytest.approx([1.0, 0.1])
