"""Labels, values or texts for new inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dltrain.build import load_trained
from dltrain.errors import UsageError


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


def predict(
    run_dir: Path,
    inputs: Sequence[str | Path],
    *,
    checkpoint: str | None = None,
    device: str | None = None,
) -> list[Prediction]:
    """Predictions for image files, the rows of CSV files, or texts, read as training's data was.

    An input of a text classifier is a text, a file with a text a line, or `-`: standard input.

    Raises:
        RunError: There is no such checkpoint.
        DataError: A file can't be read.
        UsageError: The run's task gives no predictions.
    """
    from dltrain.data.readers import read_inputs

    trained = load_trained(run_dir, checkpoint, device, measures=False)
    task_predict = getattr(trained.task, "predict", None)
    transduce = getattr(trained.task, "transduce", None)
    if task_predict is None and transduce is None:
        raise UsageError(f"task {trained.experiment.task.name!r} gives no predictions")
    tensor, names = read_inputs(trained.spec, inputs)
    tensor = tensor.to(trained.machine.device)
    if tensor.is_floating_point():
        tensor = tensor.to(trained.machine.numerics.dtype)
    size = trained.experiment.train.samples_at_once
    with torch.inference_mode(), trained.machine.numerics.autocast():
        if transduce is not None:
            texts = [text for part in tensor.split(size) for text in transduce(part)]
            return [Prediction(n, text=text) for n, text in zip(names, texts, strict=True)]
        assert task_predict is not None
        outputs = torch.cat([task_predict(part) for part in tensor.split(size)]).cpu()
    classes = trained.spec.class_names
    if not classes:
        return [Prediction(n, values=row) for n, row in zip(names, outputs.tolist(), strict=True)]
    return [
        Prediction(
            name,
            label=classes[max(range(len(row)), key=row.__getitem__)],
            probabilities=dict(zip(classes, row, strict=True)),
        )
        for name, row in zip(names, outputs.tolist(), strict=True)
    ]
