"""Task of autoencoders: reconstruct inputs, and generate samples from random codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from dltrain.core.batch import Batch
from dltrain.core.data_spec import DataSpec
from dltrain.core.errors import UsageError
from dltrain.core.option_types import NonNegativeFloat
from dltrain.core.protocols import Loss, ProcessGroup
from dltrain.core.registry import TASKS
from dltrain.core.task import Embedding, Figure, Phase, Task, TaskContext
from dltrain.data.seeding import derive_seed, normal
from dltrain.tasks import figures
from dltrain.tasks.common import (
    comparing_loss,
    computed,
    losses_of,
    model_of_inputs,
    require_weight,
    scalars_of,
)
from dltrain.tasks.embedding import embedding_of, features_and_outputs

ROW = 8
"""Images per row of the grid of reconstructions."""


@TASKS.register("autoencoder")
class Autoencoder(Task):
    """Reconstruct inputs, compared by any loss and metric of values.

    The loss of a variational model includes the divergence of its codes from a normal distribution:
    it is the negative evidence lower bound divided by the number of values (Kingma and Welling,
    "Auto-encoding variational Bayes", 2014; `mse` corresponds to a normal distribution of variance
    1/2). The noise of a code is a function of the seed, the step and the sample's index.

    Args:
        kl_weight: Weight of the divergence of the codes of a variational model from a normal
            distribution; with a weight above 1 it is a beta-VAE (Higgins et al., 2017).
    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> from dltrain.losses.supervised import mse
        >>> from dltrain.models.autoencoder import Autoencoder as Model
        >>> spec = DataSpec((4,), 4, TableInputs(()))
        >>> task = Autoencoder(TaskContext(spec, Model(spec, latent=2), mse(spec)))
        >>> batch = Batch(torch.zeros(5, 4), torch.zeros(5), index=torch.arange(5))
        >>> task.loss(batch, task.phases[0]).shape
        torch.Size([])
    """

    def __init__(self, context: TaskContext, /, *, kl_weight: NonNegativeFloat = 1.0) -> None:
        self.spec: DataSpec = context.spec
        self.model: nn.Module = model_of_inputs(context)
        self.metrics: Sequence[Any] = context.metrics
        self.loss_function: Loss = comparing_loss(context)
        self.kl_weight = kl_weight
        self.seed: int = context.seed
        self.process_group: ProcessGroup = context.process_group
        if getattr(context.model, "variational", False):
            self.latent: int = cast(Any, context.model).latent
        own = ["loss", "kl_divergence"] if self.latent else ["loss"]
        self.scalars: Mapping[str, bool | None] = scalars_of(context, dict.fromkeys(own, False))
        # The halves of a variational model are called separately, to add the noise between them.
        halves = ("encoder", "decoder") if self.latent else ()
        called = tuple(context.model.get_submodule(name) for name in halves)
        self.phases: tuple[Phase, ...] = (context.make_phase("main", context.model, called=called),)
        self._num_images = context.num_images if context.spec.inputs.kind == "image" else 0
        self._shown: list[Figure] = []

    @staticmethod
    def adapt_spec(spec: DataSpec) -> DataSpec:
        """Return the spec with the inputs as targets.

        Raises:
            UsageError: The data is text.
        """
        if spec.inputs.kind == "text":
            raise UsageError("task 'autoencoder' expected images or tables, and this data has text")
        size = prod(spec.input_shape)
        return replace(
            spec,
            num_outputs=size,
            class_names=(),
            class_counts=(),
            target_mean=0.0,
            target_std=1.0,
        )

    def weight(self, batch: Batch, phase: Phase) -> Tensor | int:
        """Return the number of samples."""
        return len(batch)

    def loss(self, batch: Batch, phase: Phase) -> Tensor:
        """Return the summed loss, a scalar."""
        step = 0 if batch.step is None else batch.step
        outputs, divergence = self._reconstruct(batch, derive_seed(self.seed, step, 0))
        losses = losses_of(self.loss_function, outputs, batch.inputs.flatten(1))
        return (losses + self._penalty(divergence)).sum()

    def _reconstruct(self, batch: Batch, seed: int | Tensor) -> tuple[Tensor, Tensor | float]:
        """Return outputs (batch, values), and the divergence of each code, (batch,), in nats."""
        if not self.latent:
            return self.model(batch.inputs).flatten(1), 0.0
        code = self.model.encoder(batch.inputs)  # pyright: ignore[reportCallIssue]
        # The exponential can overflow in half precision.
        mean, log_variance = code.to(batch.inputs.dtype).chunk(2, dim=1)
        noise = normal(seed, batch.index, self.latent).to(mean)
        sampled = mean + noise * (log_variance / 2).exp()
        outputs = self.model.decoder(sampled)  # pyright: ignore[reportCallIssue]
        # The divergence of two normal distributions: appendix B of the paper.
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
        return outputs.flatten(1), divergence

    def _penalty(self, divergence: Tensor | float) -> Tensor | float:
        return self.kl_weight * divergence / self.spec.num_outputs

    def evaluate(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Return loss and metrics over all samples, with the same noise at each evaluation."""
        count = 0
        total: Tensor | float = 0.0
        divergences: Tensor | float = 0.0
        shown: list[Tensor] = []
        for metric in self.metrics:
            metric.reset()
        for batch in batches:
            own, own_divergence = self._reconstruct(batch, derive_seed(self.seed))
            outputs, inputs = self.process_group.all_gather(batch, own, batch.inputs.flatten(1))
            losses = losses_of(self.loss_function, outputs, inputs)
            if isinstance(own_divergence, Tensor):
                (divergence,) = self.process_group.all_gather(batch, own_divergence)
                losses = losses + self._penalty(divergence)
                divergences = divergences + divergence.sum()
            total = total + losses.sum()
            predictions = self.loss_function.predict(outputs)
            for metric in self.metrics:
                metric.update(predictions, inputs)
            missing = slice(max(0, self._num_images - count))
            shown.append(torch.stack([inputs[missing], outputs[missing].to(inputs)]))
            count += len(inputs)
        require_weight(count)
        values = {"loss": float(total) / count}
        if self.latent:
            values["kl_divergence"] = float(divergences) / count
        values |= computed(self.metrics)
        if self._num_images:
            self._shown = self._draw_figures(torch.cat(shown, dim=1))
        return values

    def _draw_figures(self, pairs: Tensor) -> list[Figure]:
        """Return figures of inputs and outputs, (2, images, values)."""
        rows = [
            side.unflatten(1, self.spec.input_shape)
            for part in pairs.split(ROW, dim=1)
            for side in part
        ]
        # Drop an incomplete last row, unless it is the only one.
        if rows[-1].shape[0] < ROW and len(rows) > 2:
            rows = rows[:-2]
        images = figures.to_pixels(self.spec, torch.cat(rows))
        shown = [Figure("reconstructions", "image", figures.grid(images, min(ROW, len(rows[0]))))]
        if self.latent:
            index = torch.arange(self._num_images, device=pairs.device)
            noise = normal(derive_seed(self.seed, 1), index, self.latent).to(pairs)
            shown.append(Figure("samples", "image", figures.grid(self.generate_images(noise))))
        return shown

    def embed(self, batches: Iterator[Batch], num_samples: int) -> Embedding:
        """Return the code of each sample (its mean for a variational model) and the target."""

        def points(batch: Batch) -> tuple[Tensor, Tensor]:
            encoder = getattr(self.model, "encoder", None)
            if encoder is None:
                return features_and_outputs(self.model, batch.inputs)
            code = encoder(batch.inputs)[:, : self.latent or None]
            return code, code

        return embedding_of(
            self.spec, self.process_group, batches, num_samples, points, self._labels
        )

    def _labels(self, prediction: Tensor, target: Tensor) -> dict[str, str]:
        return {"target": " ".join(f"{value:.6g}" for value in target.reshape(-1).tolist())}

    def figures(self) -> list[Figure]:
        """Return inputs above their reconstructions, and samples of a variational model."""
        return self._shown

    def generate_images(self, noise: Tensor) -> Tensor:
        """Return images, (images, channels, height, width) uint8, for (images, latent) noise."""
        return figures.to_pixels(self.spec, self.model.decoder(noise))  # pyright: ignore[reportCallIssue]
