"""The base class of tasks, and the parts that a task is built from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from dltrain.core.batch import Batch
from dltrain.core.data_spec import DataSpec
from dltrain.core.errors import UsageError
from dltrain.core.protocols import ProcessGroup

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass(frozen=True)
class Phase:
    """A part of a training step that has its own parameters and optimizers.

    Attributes:
        name: Such as `main` or `generator`; optimizer states are saved under this name.
        module: The module that the phase trains.
        optimizers: Usually one.
        schedule: Progress in [0, 1) to a factor of the learning rate.
        clip_norm: Maximum total norm of the gradients; None disables clipping.
        averaged: Whether `train.ema` averages the parameters of `module`.
        called: Submodules of `module` that the task calls directly, where it does not call `module`
            itself. `train.compile` compiles these.
    """

    name: str
    module: nn.Module
    optimizers: tuple[Optimizer, ...]
    schedule: Callable[[float], float] = lambda progress: 1.0
    clip_norm: float | None = None
    averaged: bool = True
    called: tuple[nn.Module, ...] = ()


class Task(ABC):
    """What one training step computes: all that the training loop knows of models and losses.

    Subclass it, register the subclass with `@TASKS.register`, and set `model`, `phases` and
    `scalars` in `__init__`, which receives a `TaskContext`. `weight`, `loss` and `evaluate` are
    required. The methods `embed`, `predict`, `transduce` and `generate_images` are optional;
    `implements` tells whether a task has them.

    Attributes:
        phase_names: Names of the phases, so that `phases` in a config can be checked before
            anything is built.
        model: The module that has all parameters and buffers; its `state_dict` is saved.
        phases: Run one after another in each step.
        scalars: Names of the values that `evaluate` returns, and whether higher is better; None
            where that is unknown.
        loss_function: The module that computes the loss; None where the task has none.
        latent: Width of the noise that `generate_images` takes; 0 where the model takes none.

    Example:
        >>> from dltrain import TASKS, Task
        >>> @TASKS.register
        ... class least_squares(Task):
        ...     def __init__(self, context, /):
        ...         self.model, self.loss_function = context.model, context.loss
        ...         self.process_group = context.process_group
        ...         self.scalars = {"loss": False}
        ...         self.phases = (context.make_phase("main", context.model),)
        ...
        ...     def weight(self, batch, phase):
        ...         return len(batch)
        ...
        ...     def loss(self, batch, phase):
        ...         return (self.model(batch.inputs) - batch.targets).square().sum()
        ...
        ...     def evaluate(self, batches):
        ...         total, count = 0.0, 0
        ...         for batch in batches:
        ...             outputs, targets = self.process_group.all_gather(
        ...                 batch, self.model(batch.inputs), batch.targets
        ...             )
        ...             total += float((outputs - targets).square().sum())
        ...             count += len(targets)
        ...         return {"loss": total / count}
        >>> least_squares.implements(Task.predict)
        False
    """

    phase_names: ClassVar[tuple[str, ...]] = ("main",)
    model: nn.Module
    phases: tuple[Phase, ...]
    scalars: Mapping[str, bool | None]
    loss_function: Any = None
    latent: int = 0

    @staticmethod
    def adapt_spec(spec: DataSpec) -> DataSpec:
        """Return the spec that loss, model and metrics are built from.

        Args:
            spec: The spec of the data.

        Raises:
            UsageError: The task can't use this data.
        """
        return spec

    @abstractmethod
    def weight(self, batch: Batch, phase: Phase) -> Tensor | int:
        """Return the divisor of the whole batch's summed loss: its number of samples or tokens.

        With several processes, `batch` is the shard of one rank: an int must be proportional to
        the number of samples, a tensor must be a sum over samples.
        """

    @abstractmethod
    def loss(self, batch: Batch, phase: Phase) -> Tensor:
        """Return the summed loss of the samples, a scalar on the device."""

    @abstractmethod
    def evaluate(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Return the loss and the metrics over all samples, each counted by its own weight.

        With several processes, each rank receives its shard of every batch; see
        `TaskContext.process_group`.
        """

    def figures(self) -> list[Figure]:
        """Return the figures of the last evaluation; none by default."""
        return []

    def arguments(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the arguments of the model's forward pass; by default the batch's inputs."""
        return (batch.inputs,)

    def embed(self, batches: Iterator[Batch], num_samples: int) -> Embedding:
        """Return the embedding of at most `num_samples` samples (optional)."""
        raise NotImplementedError

    def predict(self, inputs: Tensor) -> Tensor:
        """Return predictions for inputs, (batch, *input_shape) (optional).

        Returns:
            Probabilities (batch, classes), or values (batch, values) in the target's unit.
        """
        raise NotImplementedError

    def transduce(self, inputs: Tensor) -> list[str]:
        """Return an output text for each sequence of inputs, (batch, tokens) int64 (optional)."""
        raise NotImplementedError

    def generate_images(self, noise: Tensor) -> Tensor:
        """Return images for noise, (images, latent) (optional).

        Returns:
            (images, channels, height, width) uint8.
        """
        raise NotImplementedError

    @classmethod
    def implements(cls, method: Callable[..., Any]) -> bool:
        """Return whether the task overrides an optional method, such as `Task.embed`."""
        return getattr(cls, method.__name__) is not method


def task_class(builder: Callable[..., Any]) -> type[Task] | None:
    """Return the task class that is registered as a builder; None where it is a function."""
    return builder if isinstance(builder, type) and issubclass(builder, Task) else None


@dataclass(frozen=True)
class Embedding:
    """Samples as points, with labels.

    Attributes:
        points: (samples, features) float32, on the CPU.
        columns: Names of the labels.
        rows: For each sample one text per column.
        images: (samples, 3, height, width) uint8, on the CPU; None where inputs are not images.
    """

    points: Tensor
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    images: Tensor | None


@dataclass(frozen=True)
class Figure:
    """An image, a curve or a text for TensorBoard and the report.

    Attributes:
        tag: Name of the figure.
        kind: Type of `content`: `image`, (3, height, width) uint8; `pr_curve`, (6, thresholds)
            float; `text`, a str in Markdown.
        content: The data of the figure.
    """

    tag: str
    kind: Literal["image", "pr_curve", "text"]
    content: Any


class PhaseFactory(Protocol):
    """Build a phase with the optimizer, schedule and gradient clipping that the config chooses."""

    def __call__(
        self,
        name: str,
        module: nn.Module,
        *,
        averaged: bool = True,
        called: tuple[nn.Module, ...] = (),
    ) -> Phase:
        """Return the phase; see `Phase` for the arguments."""
        ...


def phase_without_optimizers(
    name: str,
    module: nn.Module,
    *,
    averaged: bool = True,
    called: tuple[nn.Module, ...] = (),
) -> Phase:
    """Return a phase that computes losses but does not train."""
    return Phase(name, module, optimizers=(), averaged=averaged, called=called)


def _no_trained_model(run_dir: str) -> TrainedModel:
    raise UsageError(f"{run_dir}: this context loads no trained models")


@dataclass(frozen=True)
class TaskContext:
    """The parts that a task is built from, which `TASKS` passes to the builder of a task.

    Attributes:
        spec: The spec of the data, as `Task.adapt_spec` returned it.
        model: The model, on the device.
        loss: The loss that the config chooses; a task refuses a type that it can't use.
        metrics: The metrics that the config chooses.
        make_phase: Builds a phase.
        load_trained_model: Loads the model of a finished run, given the run directory.
        seed: The seed of the experiment.
        num_images: Maximum number of samples in a figure; 0 disables figures.
        process_group: The ranks that train together. Each evaluates its shard of a batch and
            computes metrics over all samples after gathering the results of the other ranks.
    """

    spec: DataSpec
    model: nn.Module
    loss: nn.Module
    metrics: Sequence[Any] = ()
    make_phase: PhaseFactory = phase_without_optimizers
    load_trained_model: Callable[[str], TrainedModel] = _no_trained_model
    seed: int = 0
    num_images: int = 0
    process_group: ProcessGroup = field(default_factory=ProcessGroup)


@dataclass(frozen=True)
class TrainedModel:
    """The model of a finished run, in evaluation mode.

    Attributes:
        spec: The spec of the run's data.
        model: The module, on the device, with frozen parameters.
        predict: See `Task.predict`; None where the run's task has no predictions.
    """

    spec: DataSpec
    model: nn.Module
    predict: Callable[[Tensor], Tensor] | None
