"""Predict labels, values or texts for new inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dltrain.build import Trained, load_trained
from dltrain.core.data_spec import DataSpec
from dltrain.core.errors import RunError, UsageError, print_warning
from dltrain.core.task import Task
from dltrain.data.input_readers import read_inputs


@dataclass(frozen=True)
class Prediction:
    """Prediction for one input.

    Attributes:
        input: Name of the file, and of the row in a table.
        label: The most probable class; None for regression.
        probabilities: Probability by class; None for regression.
        values: Values of a regression, in the target's own unit; None for classification.
        text: Output of a sequence-to-sequence model; None for other models.
    """

    input: str
    label: str | None = None
    probabilities: dict[str, float] | None = None
    values: list[float] | None = None
    text: str | None = None


class Predictor:
    """A run's model, loaded once for any number of predictions by one thread at a time.

    Args:
        run_dir: Directory of the run.
        checkpoint: Name of a checkpoint; see `load_trained`.
        device: Device to use instead of the config's.
        warn: See `load_trained`.

    Attributes:
        trained: The model with its weights.
        spec: Specification of the data that it was trained on.
        gives: Field that its `Prediction`s have: `label`, with probabilities, `values` or `text`.

    Raises:
        RunError: There is no such checkpoint.
        UsageError: The run's task gives no predictions.
    """

    def __init__(
        self,
        run_dir: str | Path,
        *,
        checkpoint: str | None = None,
        device: str | None = None,
        warn: Callable[[str], None] = print_warning,
    ) -> None:
        self.trained: Trained = load_trained(
            run_dir, checkpoint, device, with_metrics=False, warn=warn
        )
        self.spec: DataSpec = self.trained.spec
        task = self.trained.task
        self._gives_texts = task.implements(Task.transduce)
        if not self._gives_texts and not task.implements(Task.predict):
            name = self.trained.experiment.task.name
            raise UsageError(f"task {name!r} gives no predictions")
        self.gives: Literal["label", "values", "text"] = (
            "text" if self._gives_texts else "label" if self.spec.class_names else "values"
        )

    def __call__(self, inputs: Sequence[str | Path]) -> list[Prediction]:
        """Predict image files, the rows of CSV files, or texts; see `predict`.

        Raises:
            DataError: A file can't be read.
            RunError: The probabilities of an input are NaN.
        """
        return self.of_tensor(*read_inputs(self.spec, inputs))

    def of_tensor(self, inputs: Tensor, names: Sequence[str]) -> list[Prediction]:
        """Predict inputs that have been read already.

        Args:
            inputs: What `read_inputs` returns: (samples, *input_shape) float32, normalized, or
                (samples, tokens) int64.
            names: Name of each input.
        """
        precision = self.trained.runtime.precision
        inputs = inputs.to(self.trained.runtime.device)
        if inputs.is_floating_point():
            inputs = inputs.to(precision.dtype)
        parts = inputs.split(self.trained.experiment.train.samples_at_once)
        with torch.inference_mode(), precision.autocast():
            task = self.trained.task
            if self._gives_texts:
                texts = [text for part in parts for text in task.transduce(part)]
                return [Prediction(n, text=text) for n, text in zip(names, texts, strict=True)]
            rows = torch.cat([task.predict(part) for part in parts]).tolist()
        return [self._prediction(name, row) for name, row in zip(names, rows, strict=True)]

    def _prediction(self, name: str, row: list[float]) -> Prediction:
        """Return the prediction for an output: (classes,) probabilities, or (values,)."""
        classes = self.spec.class_names
        if not classes:
            return Prediction(name, values=row)
        if any(map(math.isnan, row)):
            raise RunError(
                f"{name}: the model's probabilities are NaN, so no class is the most probable; "
                "check the input for values that are not finite, or choose another checkpoint"
            )
        label = classes[max(range(len(row)), key=row.__getitem__)]
        return Prediction(name, label=label, probabilities=dict(zip(classes, row, strict=True)))


def predict(
    run_dir: str | Path,
    inputs: Sequence[str | Path],
    *,
    checkpoint: str | None = None,
    device: str | None = None,
) -> list[Prediction]:
    """Predict image files, the rows of CSV files, or texts, which are read like training data.

    Args:
        run_dir: Directory of the run.
        inputs: Files or texts. An input of a text model is a text, a file with one text per line,
            a table with the text columns of the training data, or `-` for standard input; see
            `is_file` for which str is a file.
        checkpoint: Name of a checkpoint; see `load_trained`.
        device: Device to use instead of the config's.

    Raises:
        RunError: There is no such checkpoint.
        DataError: A file can't be read.
        UsageError: The run's task gives no predictions.
    """
    return Predictor(run_dir, checkpoint=checkpoint, device=device)(inputs)
