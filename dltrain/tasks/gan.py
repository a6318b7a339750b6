"""Task of generative adversarial networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dltrain.core.batch import Batch
from dltrain.core.data_spec import DataSpec
from dltrain.core.errors import OptionError, UsageError
from dltrain.core.paths import ConfigPath
from dltrain.core.protocols import ProcessGroup
from dltrain.core.registry import TASKS, Limits
from dltrain.core.task import Figure, Phase, Task, TaskContext
from dltrain.data.seeding import derive_seed, normal, uniform
from dltrain.losses.adversarial import AdversarialLoss
from dltrain.losses.supervised import at_least_float32
from dltrain.metrics.generation import GeneratorMetric, JudgeOutputs
from dltrain.models.gan import Adversaries
from dltrain.tasks import figures
from dltrain.tasks.common import computed, require_weight, scalars_of
from dltrain.tasks.judge import Judge

DISCRIMINATOR, GENERATOR = "discriminator", "generator"


@TASKS.register(
    "gan", limits=Limits(fsdp="generator and discriminator use the parameters of each other")
)
class Gan(Task):
    """Generate samples like those of the data: a generator against a discriminator.

    Each step trains both once, the discriminator first, with different noise. The noise of a batch
    is a function of the seed, the step and the indices of its samples.

    Args:
        judge: Run directory of a classifier of such data, whose outputs the metrics use.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> from dltrain.losses.adversarial import Hinge
        >>> from dltrain.models.gan import gan_mlp
        >>> spec = DataSpec((4,), 1, TableInputs(()))
        >>> task = Gan(TaskContext(spec, gan_mlp(spec, latent=2), Hinge(spec)))
        >>> batch = Batch(torch.zeros(5, 4), torch.zeros(5), index=torch.arange(5))
        >>> [(phase.name, task.loss(batch, phase).shape) for phase in task.phases]
        [('discriminator', torch.Size([])), ('generator', torch.Size([]))]
    """

    phase_names: ClassVar[tuple[str, ...]] = (DISCRIMINATOR, GENERATOR)

    def __init__(self, context: TaskContext, /, *, judge: ConfigPath | None = None) -> None:
        if not isinstance(context.loss, AdversarialLoss):
            names = "'non_saturating', 'hinge' or 'wasserstein'"
            raise OptionError("loss", f"task 'gan' expected an adversarial loss: {names}")
        for number, metric in enumerate(context.metrics):
            if not isinstance(metric, GeneratorMetric):
                raise OptionError(
                    f"metrics.{number}",
                    "task 'gan' has no predictions: use 'classifier_confidence', "
                    "'class_coverage' or 'frechet_distance'",
                )
        if not all(hasattr(context.model, name) for name in (GENERATOR, DISCRIMINATOR, "latent")):
            raise OptionError("model", "task 'gan' expected model 'gan_mlp' or 'dcgan'")
        model = cast(Adversaries, context.model)
        self.spec: DataSpec = context.spec
        self.model: nn.Module = context.model
        self.metrics: Sequence[Any] = context.metrics
        self.generator: nn.Module = model.generator
        self.discriminator: nn.Module = model.discriminator
        self.latent: int = model.latent
        self.loss_function: AdversarialLoss = context.loss
        self.seed: int = context.seed
        self.process_group: ProcessGroup = context.process_group
        own = {"discriminator_loss": False, "generator_loss": False}
        self.scalars: Mapping[str, bool | None] = scalars_of(
            context, {**own, "real_score": True, "fake_score": True}
        )
        self.phases: tuple[Phase, ...] = (
            context.make_phase(DISCRIMINATOR, self.discriminator, averaged=False),
            context.make_phase(GENERATOR, self.generator),
        )
        if self.metrics and judge is None:
            raise OptionError("task", "the metrics need the run of a classifier, `judge`")
        self.judge: Judge | None = (
            Judge(context, judge) if self.metrics and judge is not None else None
        )
        self._num_images = context.num_images if context.spec.inputs.kind == "image" else 0
        self._shown: Tensor | None = None

    @staticmethod
    def adapt_spec(spec: DataSpec) -> DataSpec:
        """Return the spec unchanged.

        Raises:
            UsageError: The data is text.
        """
        if spec.inputs.kind == "text":
            raise UsageError("task 'gan' expected images or tables, and this data has text")
        return spec

    def weight(self, batch: Batch, phase: Phase) -> Tensor | int:
        """Return the number of samples."""
        return len(batch)

    def loss(self, batch: Batch, phase: Phase) -> Tensor:
        """Return the summed loss of the phase, a scalar."""
        step = 0 if batch.step is None else batch.step
        purpose = derive_seed(self.seed, step, self.phases.index(phase))
        noise = self._noise(purpose, batch.index, batch.inputs.dtype)
        if phase.name == GENERATOR:
            with _frozen(self.discriminator):
                return self.loss_function.generator(self._score(self.generator(noise))).sum()
        with torch.no_grad():
            fake = self.generator(noise)
        losses = self.loss_function.discriminator(self._score(batch.inputs), self._score(fake))
        fraction = uniform(derive_seed(purpose, 1), batch.index, 1).flatten().to(batch.inputs.dtype)
        penalty = self.loss_function.penalty(self._score, batch.inputs, fake, fraction)
        return (losses + penalty).sum()

    def _noise(self, seed: int | Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
        return normal(seed, index, self.latent).to(dtype)

    def _score(self, samples: Tensor) -> Tensor:
        return self.discriminator(samples)

    def evaluate(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Return losses without the penalty, mean outputs of the discriminator, and metrics.

        One sample is generated per real one, from the same noise at each evaluation.
        """
        count, totals = 0, torch.zeros(())
        shown: list[Tensor] = []
        for metric in self.metrics:
            metric.reset()
        for batch in batches:
            # The noise depends on the index of a sample only, not on its rank.
            fake = self.generator(
                self._noise(derive_seed(self.seed), batch.index, batch.inputs.dtype)
            )
            scores = self._score(batch.inputs), self._score(fake)
            sums = (
                self.loss_function.discriminator(*scores),
                self.loss_function.generator(scores[1]),
                *scores,
            )
            rows = self.process_group.all_gather(
                batch, *(at_least_float32(v).flatten() for v in sums)
            )
            totals = totals + torch.stack([values.sum() for values in rows])
            if self.judge is not None:
                judged = self._gathered(batch, fake), self._gathered(batch, batch.inputs)
                for metric in self.metrics:
                    metric.update(*judged)
            num_missing = max(0, self._num_images - count)
            if num_missing:
                (generated,) = self.process_group.all_gather(batch, fake[:num_missing])
                shown.append(generated[:num_missing])
            count += len(rows[0])
        require_weight(count)
        if self._num_images:
            self._shown = figures.grid(figures.to_pixels(self.spec, torch.cat(shown)))
        discriminator, generator, real, fake_score = (totals / count).tolist()
        values = {
            "discriminator_loss": discriminator,
            "generator_loss": generator,
            "real_score": real,
            "fake_score": fake_score,
        }
        return values | computed(self.metrics)

    def _gathered(self, batch: Batch, samples: Tensor) -> JudgeOutputs:
        """Return the classifier's outputs for the samples of all ranks."""
        assert self.judge is not None
        judged = self.judge(samples)
        return JudgeOutputs(
            *self.process_group.all_gather(batch, judged.probabilities, judged.features)
        )

    def figures(self) -> list[Figure]:
        """Return the samples that the last evaluation generated."""
        return [] if self._shown is None else [Figure("samples", "image", self._shown)]

    def generate_images(self, noise: Tensor) -> Tensor:
        """Return images, (images, channels, height, width) uint8, for (images, latent) noise."""
        return figures.to_pixels(self.spec, self.generator(noise))


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Disable the gradients of a module's parameters inside this context."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
