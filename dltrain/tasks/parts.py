"""What tasks have in common: the scalars of their metrics, and which parts they refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from dltrain.errors import OptionError
from dltrain.losses.adversarial import AdversarialLoss
from dltrain.metrics.generation import GeneratorMetric
from dltrain.spec import Loss
from dltrain.task import TaskParts


def scalars_of(parts: TaskParts, own: Mapping[str, bool]) -> dict[str, bool]:
    """A task's own scalars and those of its metrics.

    Raises:
        OptionError: Two have one name.
    """
    scalars = dict(own)
    for metric in parts.metrics:
        for name in metric.scalars.keys() & scalars.keys():
            raise OptionError("metrics", f"two of them give a scalar named {name!r}")
        scalars |= metric.scalars
    return scalars


def comparing_loss(parts: TaskParts) -> Loss:
    """The loss of a task that compares outputs with targets.

    Raises:
        OptionError: The loss, or a metric, is one for generators.
    """
    if isinstance(parts.loss, AdversarialLoss):
        raise OptionError(
            "loss", "this loss is for task 'gan': it compares no outputs with targets"
        )
    for number, metric in enumerate(parts.metrics):
        if isinstance(metric, GeneratorMetric):
            message = "this metric is for task 'gan': it judges samples that a model makes"
            raise OptionError(f"metrics.{number}", message)
    return cast(Loss, parts.loss)
