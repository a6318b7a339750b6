"""Functions shared by tasks: scalars of metrics, and checks of models, losses and metrics."""

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
    """Return the scalars of a task and of its metrics.

    Raises:
        OptionError: Two scalars have the same name.
    """
    scalars: dict[str, bool | None] = dict(own)
    for metric in context.metrics:
        for name in metric.scalars.keys() & scalars.keys():
            raise OptionError("metrics", f"two metrics return a scalar named {name!r}")
        scalars |= metric.scalars
    return scalars


def model_of_inputs(context: TaskContext) -> nn.Module:
    """Return the model of a task that calls it with the inputs of a batch only.

    Raises:
        OptionError: The model takes more arguments.
    """
    try:
        inspect.signature(context.model.forward).bind(None)
    except TypeError:
        message = "this model takes more than inputs: use 'seq2seq_lstm' with task 'seq2seq'"
        raise OptionError("model", message) from None
    return context.model


def outputs_of(model: nn.Module, batch: Batch, *shape: int) -> Tensor:
    """Return the outputs of the model for a batch.

    Raises:
        UsageError: The outputs have another shape than `shape`, which a loss might broadcast.
    """
    outputs = model(batch.inputs)
    if outputs.shape != shape:
        raise UsageError(
            f"the task expected model outputs of shape {shape}, got {tuple(outputs.shape)}: "
            "choose another model or another task"
        )
    return outputs


def losses_of(function: nn.Module, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each sample, (batch,).

    Raises:
        UsageError: The loss has another shape, such as that of a mean over the batch.
    """
    losses = function(outputs, targets)
    shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
    if shape != (len(outputs),):
        inner = getattr(function, "function", function)  # of a loss that was adapted
        place = definition_of(type(inner) if isinstance(inner, nn.Module) else inner)
        raise UsageError(
            f"{place}: a loss must return one value per sample, a tensor of shape "
            f"({len(outputs)},) for this batch, without a reduction; it returned {shape}"
        )
    return losses


def computed(metrics: Sequence[Any]) -> dict[str, float]:
    """Return the scalars of all metrics.

    Raises:
        UsageError: A metric returns other scalars than it declares.
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
    """Check that an evaluation has samples; otherwise loss and metrics would be 0 or NaN.

    Args:
        weight: Sum of the weights of samples or tokens. Reading it synchronizes with the device,
            once per evaluation.

    Raises:
        RunError: `weight` is 0.
    """
    if float(weight) == 0:
        raise RunError(
            "loss and metrics are undefined: the samples of this evaluation have no weight; the "
            "split has no batches, all targets are padding, or the loss weights all samples with 0"
        )


def comparing_loss(context: TaskContext) -> Loss:
    """Return the loss of a task that compares outputs with targets.

    Raises:
        OptionError: The loss or a metric is for generators.
    """
    if isinstance(context.loss, AdversarialLoss):
        raise OptionError(
            "loss", "this loss is for task 'gan': it does not compare outputs with targets"
        )
    for number, metric in enumerate(context.metrics):
        if isinstance(metric, GeneratorMetric):
            message = "this metric is for task 'gan': it evaluates generated samples"
            raise OptionError(f"metrics.{number}", message)
    return cast(Loss, context.loss)
