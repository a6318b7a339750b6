"""What a task promises the trainer, and what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor, nn

from dltrain.core.batch import Batch
from dltrain.core.data_spec import DataSpec
from dltrain.core.protocols import ProcessGroup

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass(frozen=True)
class Phase:
    """A part of a step with parameters and optimizers of its own.

    Attributes:
        name: `main`, or `generator`, say; optimizer states are saved under it.
        module: What the phase trains.
        optimizers: Usually one.
        schedule: Progress in [0, 1) to a factor of the learning rate.
        clip_norm: Gradients are scaled down to this total norm; None leaves them.
        averaged: Whether `train.ema` averages what the phase trains.
        called: The parts of `module` that the task calls, where it does not call `module` itself;
            they are what `train.compile` compiles.
    """

    name: str
    module: nn.Module
    optimizers: tuple[Optimizer, ...]
    schedule: Callable[[float], float] = lambda progress: 1.0
    clip_norm: float | None = None
    averaged: bool = True
    called: tuple[nn.Module, ...] = ()


class Task(Protocol):
    """What one step computes. The loop knows nothing else of models and losses.

    A class in `TASKS` may have two attributes more. `phase_names` are those of its phases, so that
    a config's `phases` can be checked before anything is built. `learns`, a static method, is what
    the task makes of the data's spec before loss, model and metrics are built from it. A method
    `embed(batches, num_samples)` gives an `Embedding` of at most so many samples, and one
    `arguments(batch)` what the model takes where it takes more than a batch's inputs.

    Attributes:
        model: Everything with parameters or buffers; its `state_dict` is the checkpoint's.
        phases: Run one after another in each step.
    """

    model: nn.Module
    phases: tuple[Phase, ...]

    @property
    def scalars(self) -> Mapping[str, bool | None]:
        """What `evaluate` gives, and whether higher is better; None where that is unknown."""
        ...

    def weight(self, batch: Batch, phase: Phase) -> Tensor | int:
        """What the whole batch's summed loss is divided by: its samples, or its tokens.

        Of several processes each is asked for its share: an int is proportional to the number of
        samples, a tensor is a sum over them.
        """
        ...

    def loss(self, batch: Batch, phase: Phase) -> Tensor:
        """Summed loss of the samples, a scalar on the device."""
        ...

    def evaluate(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Loss and metrics over all samples, each counted by its own weight.

        Of several processes each gets its share of every batch; see `TaskContext.world`.
        """
        ...

    def figures(self) -> list[Figure]:
        """What the last evaluation has to show beside its scalars."""
        ...


@dataclass(frozen=True)
class Embedding:
    """Samples as points, each with what is known of it.

    Attributes:
        points: (samples, features) float32, on the CPU.
        columns: What is known of each sample, by name.
        rows: For each sample the texts in the order of `columns`.
        pictures: (samples, 3, height, width) uint8, on the CPU; None where there are none.
    """

    points: Tensor
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    images: Tensor | None


@dataclass(frozen=True)
class Figure:
    """Something to look at.

    Attributes:
        tag: Its name.
        kind: `image`, (3, height, width) uint8; `pr_curve`, (6, thresholds) float; `text`, a str.
        content: As `kind` says.
    """

    tag: str
    kind: Literal["image", "pr_curve", "text"]
    content: Any


class PhaseFactory(Protocol):
    """Gives a phase the optimizer, the schedule and the clipping that the config has for it."""

    def __call__(
        self,
        name: str,
        module: nn.Module,
        *,
        averaged: bool = True,
        called: tuple[nn.Module, ...] = (),
    ) -> Phase:
        """See `Phase`."""
        ...


@dataclass(frozen=True)
class TaskContext:
    """What a task is made of; the builders in `TASKS` get one.

    Attributes:
        spec: What the data promises, less what the task changed in `learns`.
        model: On the device.
        loss: What the config chose; a task says which kind it can use.
        metrics: Likewise.
        phase: Makes a phase.
        trained: The model and the data's spec of a finished run, by its directory, and what turns
            the model's outputs into predictions.
        seed: The experiment's.
        num_images: How many samples a page may show; 0 where there is nobody to look.
        world: The processes that train together. Each evaluates its share of a batch, and measures
            all of it, once it has gathered what the others found.
    """

    spec: DataSpec
    model: nn.Module
    loss: nn.Module
    metrics: Sequence[Any]
    make_phase: PhaseFactory
    load_trained_model: Callable[[str], TrainedModel]
    seed: int = 0
    num_images: int = 0
    process_group: ProcessGroup = field(default_factory=ProcessGroup)


@dataclass(frozen=True)
class TrainedModel:
    """The model of a finished run, in evaluation mode.

    Attributes:
        spec: What its data was like.
        model: On the device, its parameters frozen.
        predict: (batch, *input_shape) to probabilities or values; None where its task has none.
    """

    spec: DataSpec
    model: nn.Module
    predict: Callable[[Tensor], Tensor] | None
