"""What tasks have in common: the scalars of their metrics, and which parts they refuse."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from dltrain.config.user_code import definition_of
from dltrain.core.batch import Batch
from dltrain.core.errors import OptionError, RunError, UsageError
from dltrain.core.protocols import Loss
from dltrain.core.task import TaskContext
from dltrain.losses.adversarial import AdversarialLoss
from dltrain.metrics.generation import GeneratorMetric


def scalars_of(context: TaskContext, own: Mapping[str, bool]) -> dict[str, bool | None]:
    """A task's own scalars and those of its metrics.

    Raises:
        OptionError: Two have one name.
    """
    scalars: dict[str, bool | None] = dict(own)
    for metric in context.metrics:
        for name in metric.scalars.keys() & scalars.keys():
            raise OptionError("metrics", f"two of them give a scalar named {name!r}")
        scalars |= metric.scalars
    return scalars


def model_of_inputs(context: TaskContext) -> nn.Module:
    """The model of a task that gives it a batch's inputs and nothing else.

    Raises:
        OptionError: It takes more.
    """
    try:
        inspect.signature(context.model.forward).bind(None)
    except TypeError:
        message = "this model takes more than inputs: 'seq2seq_lstm' is for task 'seq2seq'"
        raise OptionError("model", message) from None
    return context.model


def outputs_of(model: nn.Module, batch: Batch, *shape: int) -> Tensor:
    """What the model gives for a batch.

    Raises:
        UsageError: It has another shape than this one; a loss might compare it with targets still,
            as if nothing were wrong.
    """
    outputs = model(batch.inputs)
    if outputs.shape != shape:
        raise UsageError(
            f"the model gives outputs of shape {tuple(outputs.shape)}, and its task compares those "
            f"of shape {shape}: choose another model or another task"
        )
    return outputs


def losses_of(function: nn.Module, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each sample, (batch,).

    Raises:
        UsageError: It has another shape, such as that of a mean over the batch.
    """
    losses = function(outputs, targets)
    shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
    if shape != (len(outputs),):
        inner = getattr(function, "function", function)  # of an adapted loss
        place = definition_of(type(inner) if isinstance(inner, nn.Module) else inner)
        raise UsageError(
            f"{place}: a loss must return one value per sample, a tensor of shape "
            f"({len(outputs)},) for this batch, without a reduction; it returned {shape}"
        )
    return losses


def computed(metrics: Sequence[Any]) -> dict[str, float]:
    """Return the scalars of all metrics since they were reset.

    Raises:
        UsageError: A metric gives other scalars than it has declared.
    """
    values: dict[str, float] = {}
    for metric in metrics:
        found = metric.compute()
        if not isinstance(found, dict) or found.keys() != metric.scalars.keys():
            shown = ", ".join(found) if isinstance(found, dict) else type(found).__name__
            raise UsageError(
                f"{definition_of(type(metric))}: compute must return a dict with the keys of "
                f"scalars, {', '.join(metric.scalars)}; it returned {shown}"
            )
        values |= found
    return values


def require_weight(weight: Tensor | float) -> None:
    """Refuses an evaluation of nothing, whose loss and metrics would be 0 or NaN.

    Args:
        weight: Sum of the weights of its samples or tokens, or their number. On a device it is
            waited for, once an evaluation.

    Raises:
        RunError: It is 0.
    """
    if float(weight) == 0:
        raise RunError(
            "loss and metrics are undefined: no sample of this evaluation counts; the split gave "
            "no batches, its targets are all padding, or the loss weighs every sample with 0"
        )


def comparing_loss(context: TaskContext) -> Loss:
    """The loss of a task that compares outputs with targets.

    Raises:
        OptionError: The loss, or a metric, is one for generators.
    """
    if isinstance(context.loss, AdversarialLoss):
        raise OptionError(
            "loss", "this loss is for task 'gan': it compares no outputs with targets"
        )
    for number, metric in enumerate(context.metrics):
        if isinstance(metric, GeneratorMetric):
            message = "this metric is for task 'gan': it judges samples that a model makes"
            raise OptionError(f"metrics.{number}", message)
    return cast(Loss, context.loss)
