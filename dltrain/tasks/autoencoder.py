"""Autoencoders: inputs given back through a narrow code, and new samples from drawn codes."""

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
from dltrain.data.seeding import key, normal
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
"""Pictures in a row of the grid of reconstructions."""


@TASKS.register("autoencoder")
class Autoencoder(Task):
    """Learns to give its inputs back; any loss and metric for values compares the two.

    A variational model also pays for codes that are far from a normal distribution, and the loss is
    the negative evidence lower bound divided by the number of values (Kingma and Welling,
    "Auto-encoding variational Bayes", 2014; `mse` is a normal distribution of variance 1/2). The
    noise of a code is a function of the seed, the step and the sample's number.

    Args:
        kl_weight: Weight of the divergence of the codes from a normal distribution, in a
            variational model; above 1 it is a beta-VAE (Higgins et al., 2017).
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
        # A variational model is called in two halves, with the noise between them.
        halves = ("encoder", "decoder") if self.latent else ()
        called = tuple(context.model.get_submodule(name) for name in halves)
        self.phases: tuple[Phase, ...] = (context.make_phase("main", context.model, called=called),)
        self._num_images = context.num_images if context.spec.inputs.kind == "image" else 0
        self._shown: list[Figure] = []

    @staticmethod
    def adapt_spec(spec: DataSpec) -> DataSpec:
        """The inputs, as values.

        Raises:
            UsageError: The data has no numbers.
        """
        if spec.inputs.kind == "text":
            raise UsageError(
                "task 'autoencoder' is for pictures or numbers, and this data has text"
            )
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
        """Samples."""
        return len(batch)

    def loss(self, batch: Batch, phase: Phase) -> Tensor:
        """Summed loss, a scalar."""
        step = 0 if batch.step is None else batch.step
        outputs, divergence = self._through(batch, key(self.seed, step, 0))
        losses = losses_of(self.loss_function, outputs, batch.inputs.flatten(1))
        return (losses + self._price(divergence)).sum()

    def _through(self, batch: Batch, seed: int | Tensor) -> tuple[Tensor, Tensor | float]:
        """Outputs (batch, values), and the divergence of each sample's code, (batch,), in nats."""
        if not self.latent:
            return self.model(batch.inputs).flatten(1), 0.0
        code = self.model.encoder(batch.inputs)  # pyright: ignore[reportCallIssue]
        # Half precision has no room for what the exponential gives.
        mean, log_variance = code.to(batch.inputs.dtype).chunk(2, dim=1)
        noise = normal(seed, batch.index, self.latent).to(mean)
        drawn = mean + noise * (log_variance / 2).exp()
        outputs = self.model.decoder(drawn)  # pyright: ignore[reportCallIssue]
        # Between two normal distributions: appendix B of the paper.
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
        return outputs.flatten(1), divergence

    def _price(self, divergence: Tensor | float) -> Tensor | float:
        return self.kl_weight * divergence / self.spec.num_outputs

    def evaluate(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Loss and metrics over all samples; a variational model's codes are drawn as always."""
        count = 0
        total: Tensor | float = 0.0
        divergences: Tensor | float = 0.0
        shown: list[Tensor] = []
        for metric in self.metrics:
            metric.reset()
        for batch in batches:
            own, own_divergence = self._through(batch, key(self.seed))
            outputs, inputs = self.process_group.all_gather(batch, own, batch.inputs.flatten(1))
            losses = losses_of(self.loss_function, outputs, inputs)
            if isinstance(own_divergence, Tensor):
                (divergence,) = self.process_group.all_gather(batch, own_divergence)
                losses = losses + self._price(divergence)
                divergences = divergences + divergence.sum()
            total = total + losses.sum()
            predictions = self.loss_function.predict(outputs)
            for metric in self.metrics:
                metric.update(predictions, inputs)
            wanted = slice(max(0, self._num_images - count))
            shown.append(torch.stack([inputs[wanted], outputs[wanted].to(inputs)]))
            count += len(inputs)
        require_weight(count)
        values = {"loss": float(total) / count}
        if self.latent:
            values["kl_divergence"] = float(divergences) / count
        values |= computed(self.metrics)
        if self._num_images:
            self._shown = self._draw(torch.cat(shown, dim=1))
        return values

    def _draw(self, pairs: Tensor) -> list[Figure]:
        """Pages of inputs and outputs, (2, pictures, values)."""
        rows = [
            side.unflatten(1, self.spec.input_shape)
            for part in pairs.split(ROW, dim=1)
            for side in part
        ]
        # A last row that is not full stands alone under those that are.
        if rows[-1].shape[0] < ROW and len(rows) > 2:
            rows = rows[:-2]
        pictures = figures.to_pixels(self.spec, torch.cat(rows))
        shown = [Figure("reconstructions", "image", figures.grid(pictures, min(ROW, len(rows[0]))))]
        if self.latent:
            index = torch.arange(self._num_images, device=pairs.device)
            noise = normal(key(self.seed, 1), index, self.latent).to(pairs)
            shown.append(Figure("samples", "image", figures.grid(self.generate_images(noise))))
        return shown

    def embed(self, batches: Iterator[Batch], num_samples: int) -> Embedding:
        """The code of each sample, of a variational model its mean; the data's label beside it."""

        def points(batch: Batch) -> tuple[Tensor, Tensor]:
            encoder = getattr(self.model, "encoder", None)
            if encoder is None:
                return features_and_outputs(self.model, batch.inputs)
            code = encoder(batch.inputs)[:, : self.latent or None]
            return code, code

        return embedding_of(
            self.spec, self.process_group, batches, num_samples, points, self._known
        )

    def _known(self, prediction: Tensor, target: Tensor) -> dict[str, str]:
        return {"target": " ".join(f"{value:.6g}" for value in target.reshape(-1).tolist())}

    def figures(self) -> list[Figure]:
        """Rows of inputs, each over what became of them; samples of a variational model."""
        return self._shown

    def generate_images(self, noise: Tensor) -> Tensor:
        """(pictures, latent) to (pictures, channels, height, width) uint8."""
        return figures.to_pixels(self.spec, self.model.decoder(noise))  # pyright: ignore[reportCallIssue]
