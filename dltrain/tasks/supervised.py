"""Task of classification and regression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dltrain.core.batch import Batch
from dltrain.core.data_spec import DataSpec
from dltrain.core.protocols import Loss, ProcessGroup
from dltrain.core.registry import TASKS
from dltrain.core.task import Embedding, Figure, Phase, Task, TaskContext
from dltrain.metrics.classification import ConfusionMatrix, predicted_classes
from dltrain.tasks import figures
from dltrain.tasks.common import (
    comparing_loss,
    computed,
    losses_of,
    model_of_inputs,
    outputs_of,
    require_weight,
    scalars_of,
)
from dltrain.tasks.embedding import embedding_of, features_and_outputs
from dltrain.tasks.examples import Examples

PR_THRESHOLDS = 127


@TASKS.register("supervised")
class Supervised(Task):
    """Predict targets, classes or values, from inputs.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TableInputs
        >>> from dltrain.losses.supervised import CrossEntropy
        >>> import torch
        >>> spec = DataSpec((4,), 2, TableInputs(()), class_names=("cat", "dog"))
        >>> task = Supervised(TaskContext(spec, torch.nn.Linear(4, 2), CrossEntropy(spec)))
        >>> batch = Batch(torch.zeros(5, 4), torch.zeros(5).long(), index=torch.arange(5))
        >>> task.loss(batch, task.phases[0]).shape, task.predict(batch.inputs).shape
        (torch.Size([]), torch.Size([5, 2]))
    """

    def __init__(self, context: TaskContext, /) -> None:
        self.model: nn.Module = model_of_inputs(context)
        self.metrics: Sequence[Any] = context.metrics
        self.loss_function: Loss = comparing_loss(context)
        self.scalars: Mapping[str, bool | None] = scalars_of(context, {"loss": False})
        self.phases: tuple[Phase, ...] = (context.make_phase("main", context.model),)
        self.spec: DataSpec = context.spec
        self.process_group: ProcessGroup = context.process_group
        self._figure_data = _FigureData(context.spec, context.num_images, context.process_group)

    def weight(self, batch: Batch, phase: Phase) -> Tensor | int:
        """Return the number of samples, or the sum of their class weights."""
        return self.loss_function.weight(batch.targets)

    def loss(self, batch: Batch, phase: Phase) -> Tensor:
        """Return the summed loss, a scalar."""
        return losses_of(self.loss_function, self._outputs(batch), batch.targets).sum()

    def _outputs(self, batch: Batch) -> Tensor:
        return outputs_of(self.model, batch, len(batch), self.loss_function.num_outputs)

    def predict(self, inputs: Tensor) -> Tensor:
        """Return probabilities (batch, classes), or values (batch, values)."""
        return self.loss_function.predict(self.model(inputs))

    def evaluate(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Return loss and metrics over all samples."""
        total: Tensor | float = 0.0
        weight: Tensor | float = 0.0
        for metric in self.metrics:
            metric.reset()
        self._figure_data.reset()
        for batch in batches:
            outputs, targets = self.process_group.all_gather(
                batch, self._outputs(batch), batch.targets
            )
            total = total + losses_of(self.loss_function, outputs, targets).sum()
            weight = weight + self.loss_function.weight(targets)
            predictions = self.loss_function.predict(outputs)
            targets = self.loss_function.targets(targets)
            for metric in self.metrics:
                metric.update(predictions, targets)
            self._figure_data.update(batch, predictions, targets)
        require_weight(weight)
        values = {"loss": float(total / weight)}
        return values | computed(self.metrics)

    def embed(self, batches: Iterator[Batch], num_samples: int) -> Embedding:
        """Return the inputs of the last linear layer, targets and predictions."""

        def points(batch: Batch) -> tuple[Tensor, Tensor]:
            features, outputs = features_and_outputs(self.model, batch.inputs)
            return features, self.loss_function.predict(outputs)

        return embedding_of(
            self.spec, self.process_group, batches, num_samples, points, self._labels
        )

    def _labels(self, prediction: Tensor, target: Tensor) -> dict[str, str]:
        """Return the labels of a sample, from a prediction (classes,) or (values,) and a target."""
        (truth,) = self.loss_function.targets(target[None])
        if not self.spec.num_classes:
            values = truth.reshape(-1).tolist(), prediction.reshape(-1).tolist()
            shown = [" ".join(f"{value:.6g}" for value in side) for side in values]
            return {"target": shown[0], "prediction": shown[1]}
        names, guess = self.spec.class_names, int(predicted_classes(prediction))
        right = "right" if guess == int(truth) else "wrong"
        guessed = names[guess] if guess >= 0 else "no class (NaN)"
        return {"label": names[int(truth)], "prediction": guessed, "verdict": right}

    def figures(self) -> list[Figure]:
        """Return inputs with predictions, the confusion matrix and precision-recall curves."""
        return self._figure_data.figures()


class _FigureData:
    """Data for the figures of an evaluation: some samples, and counts of fixed size."""

    def __init__(self, spec: DataSpec, num_images: int, process_group: ProcessGroup) -> None:
        self.spec = spec
        max_samples = num_images if spec.inputs.kind == "image" else 0
        self.examples = Examples(max_samples, spec.num_classes, process_group)
        drawn = 2 <= spec.num_classes <= figures.MAX_CLASSES
        self.confusion = ConfusionMatrix(spec) if drawn else None
        self.reset()

    def reset(self) -> None:
        self.examples.reset()
        if self.confusion is not None:
            self.confusion.reset()
        self.curves: Tensor | None = None

    def update(self, batch: Batch, predictions: Tensor, targets: Tensor) -> None:
        self.examples.update(batch, predictions, targets)
        if self.confusion is not None:
            self.confusion.update(predictions, targets)
            curves = figures.curve_counts(predictions, targets, PR_THRESHOLDS)
            self.curves = curves if self.curves is None else self.curves + curves

    def figures(self) -> list[Figure]:
        shown = []
        if (examples := self.examples.selected()) is not None:
            shown.append(Figure("examples", "image", figures.examples(self.spec, *examples)))
        if self.confusion is not None and self.curves is not None:
            names = self.spec.class_names
            matrix = figures.confusion_matrix(self.confusion.matrix.cpu(), names)
            shown.append(Figure("confusion_matrix", "image", matrix))
            for name, counts in zip(names, self.curves.cpu(), strict=True):
                shown.append(
                    Figure(f"precision_recall/{name}", "pr_curve", figures.pr_curve(counts))
                )
        return shown
