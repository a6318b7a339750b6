"""Components that declare what they do not support."""

from dataclasses import replace

import pytest

from dltrain.config import ConfigError
from dltrain.core.registry import LOSSES, Limits
from dltrain.training.limits import require_supported

CONFIG = {
    "model": "linear",
    "data": "toy_spirals",
    "loss": "cross_entropy",
    "optimizer": "sgd",
    "train": {"epochs": 1, "batch_size": 8},
}


def limited(experiment, limits, *overrides):
    """An experiment with a loss that has these limits."""
    chosen = experiment(CONFIG, *overrides)
    component = replace(chosen.loss.component, limits=limits)
    return replace(chosen, loss=replace(chosen.loss, component=component))


@pytest.mark.parametrize(
    ("limits", "precision", "world_size", "message"),
    [
        (Limits(fsdp="why"), "fp32", 2, "does not support FSDP: why; set train.distributed: ddp"),
        (
            Limits(distributed="why"),
            "fp32",
            2,
            "does not support several processes: why; train",
        ),
        (Limits(fp16="why"), "fp16", 1, "does not support fp16: why; set train.precision"),
    ],
)
def test_a_limit_is_an_error_at_the_line_of_its_component(
    experiment, limits, precision, world_size, message
):
    chosen = limited(experiment, limits, "train.distributed=fsdp")
    with pytest.raises(ConfigError) as refused:
        require_supported(chosen, precision, world_size)
    (problem,) = refused.value.problems
    assert problem.path == "loss"
    assert f"loss 'cross_entropy' {message}" in problem.message
    assert problem.position.line == 3


def test_a_limit_that_a_run_does_not_exceed_is_no_error(experiment):
    every = Limits(fsdp="why", distributed="why", fp16="why")
    require_supported(limited(experiment, every), "fp32", 1)
    require_supported(limited(experiment, Limits(fsdp="why")), "fp16", 2)  # with DDP


def test_limits_are_declared_at_registration():
    limits = Limits(fsdp="why")
    try:

        @LOSSES.register(limits=limits)
        def own_loss(spec, /): ...

        @LOSSES.register("other_name", limits=limits)
        def another_loss(spec, /): ...

        assert LOSSES["own_loss"].limits == LOSSES["other_name"].limits == limits
        assert LOSSES["own_loss"].builder is own_loss
    finally:
        for name in ("own_loss", "other_name"):
            LOSSES._components.pop(name, None)
