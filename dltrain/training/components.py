"""Build the components of a config: check what builders return, adapt objects of torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from dltrain.config import ConfigError, Experiment
from dltrain.config.user_code import definition_of
from dltrain.core.data_spec import DataSpec
from dltrain.core.errors import (
    DltrainError,
    OptionError,
    UsageError,
    describe_error,
    user_code_line,
)
from dltrain.core.protocols import Data, DataContext, Loss, Metric
from dltrain.core.registry import Choice
from dltrain.core.task import Task, TaskContext, task_class
from dltrain.data.torch_datasets import as_data
from dltrain.losses.adapted import as_loss
from dltrain.losses.adversarial import AdversarialLoss
from dltrain.metrics.adapted import as_metric
from dltrain.metrics.generation import GeneratorMetric


def build_at(experiment: Experiment, path: str, build: Callable[[], Any]) -> Any:
    """Return what `build` returns; report its errors at the line of a key of the config.

    Args:
        experiment: The experiment.
        path: Dotted key of the component in the config.
        build: Builds the component.

    Raises:
        ConfigError: A component can't be built.
    """
    try:
        return build()
    except OptionError as error:
        # A task uses the whole config: its options are keys from the top.
        key = error.option if path == "task" else f"{path}.{error.option}"
        raise experiment.problem(key, str(error)) from error
    except ConfigError:
        raise
    except UsageError as error:
        raise experiment.problem(path, str(error)) from error
    except DltrainError:
        raise
    except Exception as error:
        # From torch, for a size that exceeds the memory, or from a user's own component.
        message = describe_error(error).partition("\n")[0]
        raise experiment.problem(path, f"can't be built: {message}") from error


def make_data(choice: Choice, context: DataContext) -> Data:
    """Build data; see `data.torch_datasets.as_data` for the types that it adapts.

    Raises:
        UsageError: The builder returned another type.
    """
    built = _build(choice, context)
    place = definition_of(choice.component.builder)
    if not isinstance(built, Data):
        data = _adapted(choice, lambda: as_data(built, context, f"{choice.name}, {place}"))
        if data is None:
            expected = "a dltrain.Data, a map-style torch Dataset or a mapping of Datasets"
            raise _wrong(choice, _type(built), expected)
        return data
    for name in ("train", "validation", "test"):
        split = getattr(built, name)
        if split is None and name != "train":
            continue
        if not callable(getattr(split, "batches", None)) or not hasattr(split, "__len__"):
            expected = "with __len__ and batches; return a mapping of Datasets instead of a Data"
            raise _wrong(choice, _type(split), f"a Data whose {name} is a split {expected}")
    return built


def make_loss(choice: Choice, spec: DataSpec) -> nn.Module:
    """Build a loss; see `losses.adapted.as_loss` for the types that it adapts.

    Raises:
        UsageError: The builder returned another type.
    """
    built = _build(choice, spec)
    if isinstance(built, Loss | AdversarialLoss):
        if not isinstance(getattr(built, "num_outputs", None), int):
            raise _wrong(choice, _type(built), "a Loss that sets the int num_outputs")
        return built
    loss = _adapted(choice, lambda: as_loss(built, spec))
    if loss is None:
        raise _wrong(choice, _type(built), "a dltrain.Loss, a torch loss module or a function")
    return loss


def make_model(choice: Choice, spec: DataSpec) -> nn.Module:
    """Build a model.

    Raises:
        UsageError: The builder did not return a module, or one with parameters of unknown shape.
    """
    built = _build(choice, spec)
    if not isinstance(built, nn.Module):
        raise _wrong(choice, _type(built), "a torch.nn.Module")
    lazy = [name for name, tensor in built.named_parameters() if is_lazy(tensor)]
    if lazy:
        expected = "a module with parameters of known shape, not Lazy; spec has the shapes"
        raise _wrong(choice, f"{lazy[0]} without a shape", expected)
    return built


def make_metric(choice: Choice, spec: DataSpec) -> Metric | GeneratorMetric:
    """Build a metric; see `metrics.adapted.as_metric` for the types that it adapts.

    Raises:
        UsageError: The builder returned another type.
    """
    built = _build(choice, spec)
    if isinstance(built, GeneratorMetric):
        return built
    if hasattr(built, "scalars") and all(
        callable(getattr(built, method, None)) for method in ("reset", "update", "compute")
    ):
        return built
    metric = as_metric(built, choice.name)
    if metric is None:
        raise _wrong(choice, _type(built), "a dltrain.Metric, a torchmetrics.Metric or a function")
    return metric


def make_optimizers(choice: Choice, module: nn.Module) -> tuple[Optimizer, ...]:
    """Build the optimizers of a phase, usually one.

    Raises:
        UsageError: The builder returned another type.
    """
    built = _build(choice, module)
    optimizers = built if isinstance(built, tuple) else (built,)
    if not optimizers or not all(isinstance(optimizer, Optimizer) for optimizer in optimizers):
        raise _wrong(choice, _type(built), "a torch.optim.Optimizer, or a tuple of them")
    return optimizers


def make_schedule(choice: Choice) -> Callable[[float], float]:
    """Build a schedule.

    Raises:
        UsageError: The builder did not return a function from progress to a finite number.
    """
    expected = "a function of progress, from 0 to 1, to a factor of the learning rate"
    built: Any = _build(choice)
    if not callable(built):
        raise _wrong(choice, _type(built), expected)
    schedule: Callable[[float], Any] = built
    factor = schedule(0.0)
    if not isinstance(factor, int | float) or not math.isfinite(factor):
        raise _wrong(choice, f"{factor!r} for 0", expected)
    return schedule


def make_task(choice: Choice, context: TaskContext) -> Task:
    """Build a task.

    Raises:
        UsageError: The builder did not return a task, or one without a required attribute.
    """
    built = _build(choice, context)
    if not isinstance(built, Task):
        raise _wrong(choice, _type(built), "a dltrain.Task")
    for name in ("model", "phases", "scalars"):
        if not hasattr(built, name):
            raise _wrong(choice, _type(built), f"a dltrain.Task whose __init__ sets {name!r}")
    names = tuple(phase.name for phase in built.phases)
    if task_class(choice.component.builder) and names != built.phase_names:
        expected = f"a dltrain.Task with the phases of phase_names, {', '.join(built.phase_names)}"
        raise _wrong(choice, f"one with {', '.join(names) or 'none'}", expected)
    return built


def _build(choice: Choice, *arguments: Any) -> Any:
    """Call the builder; an error of the call itself names the line of the builder."""
    builder = choice.component.builder
    try:
        return choice.build(*arguments)
    except TypeError as error:
        if user_code_line(error) is None and not builder.__module__.startswith("dltrain."):
            raise UsageError(f"{definition_of(builder)}: {error}") from error
        raise


def _adapted(choice: Choice, adapt: Callable[[], Any]) -> Any:
    """Adapt the result of a builder; an error names the line of the builder."""
    try:
        return adapt()
    except OptionError:
        raise
    except UsageError as error:
        place = definition_of(choice.component.builder)
        raise UsageError(f"{place}: {choice.component.kind} {choice.name!r}: {error}") from error


def _wrong(choice: Choice, received: str, expected: str) -> UsageError:
    """Return an error for a builder that returned a wrong type."""
    place = definition_of(choice.component.builder)
    return UsageError(
        f"{place}: {choice.component.kind} {choice.name!r} must return {expected}; "
        f"it returned {received}"
    )


def _type(built: Any) -> str:
    kind = type(built)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
