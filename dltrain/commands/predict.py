"""Labels, values or texts for new inputs."""

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
    """What a model says of one input.

    Attributes:
        input: The file, and the row in a table.
        label: The most probable class; None for regression.
        probabilities: By class; None for regression.
        values: What regression gives, in the target's own unit; None for classification.
        text: What a model of sequences writes; None for the others.
    """

    input: str
    label: str | None = None
    probabilities: dict[str, float] | None = None
    values: list[float] | None = None
    text: str | None = None


class Predictor:
    """A run's model, loaded once and asked as often as one likes, by one thread at a time.

    Args:
        run_dir: The run.
        checkpoint: See `load_trained`.
        device: Instead of the config's.
        warn: See `load_trained`.

    Attributes:
        trained: The model with its weights.
        spec: What its data was like.
        gives: Which of a `Prediction`'s parts it gives: `label`, with probabilities, or another.

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
        self.trained: Trained = load_trained(run_dir, checkpoint, device, measures=False, warn=warn)
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
        """Predictions for image files, the rows of CSV files, or texts; see `predict`.

        Raises:
            DataError: A file can't be read.
            RunError: The probabilities of an input are NaN.
        """
        return self.of_tensor(*read_inputs(self.spec, inputs))

    def of_tensor(self, inputs: Tensor, names: Sequence[str]) -> list[Prediction]:
        """Predictions for inputs that have been read already.

        Args:
            inputs: As `read_inputs` gives them: (samples, *input_shape) float32, normalised, or
                (samples, tokens) int64.
            names: What to call each of them.
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
        """What the model gave for one input: (classes,) probabilities, or (values,)."""
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
    """Predictions for image files, the rows of CSV files, or texts, read as training's data was.

    An input of a text model is a text, a file with one text per line, a table with the text columns
    that training had, or `-`: standard input. See `is_file` for which str is a file.

    Raises:
        RunError: There is no such checkpoint.
        DataError: A file can't be read.
        UsageError: The run's task gives no predictions.
    """
    return Predictor(run_dir, checkpoint=checkpoint, device=device)(inputs)
