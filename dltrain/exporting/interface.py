"""The inputs and outputs of an exported file."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dltrain.core.data_spec import DataSpec, ImageInputs
from dltrain.core.errors import UsageError
from dltrain.core.task import Task
from dltrain.exporting.preprocessing import Noise, Port, Preparation, preparation_of
from dltrain.tasks.autoencoder import Autoencoder
from dltrain.tasks.gan import Gan
from dltrain.tasks.language_model import LanguageModel

Predict = Callable[[Tensor], Tensor]
"""Function from a model's inputs to predictions."""


class Interface(nn.Module):
    """The module in an exported file, from raw inputs to predictions.

    Args:
        model: Model whose weights `predict` uses; the task's model, not a copy.
        preparation: Preprocessing from raw inputs to the model's inputs.
        predict: Function from the model's inputs to predictions.
        outputs: Description of the predictions.
    """

    def __init__(
        self, model: nn.Module, preparation: Preparation, predict: Predict, outputs: Port
    ) -> None:
        super().__init__()
        self.model = model
        self.preparation = preparation
        self.predict = predict
        self.outputs = outputs

    @property
    def inputs(self) -> Port:
        """Return the description of the raw inputs."""
        return self.preparation.port

    def forward(self, raw: Tensor) -> Tensor:
        """Return the predictions for raw inputs."""
        return self.predict(self.preparation(raw))


def interface_of(task: Task, spec: DataSpec, dtype: torch.dtype) -> Interface:
    """Return the interface of a task's model.

    Args:
        task: Task with trained weights on the CPU.
        spec: Spec of the data.
        dtype: Dtype of floating-point inputs of the model.

    Raises:
        UsageError: The task's model has no single forward pass.
    """
    if isinstance(task, Gan):
        predict, outputs = _samples(task.generator, spec, "pictures", "generated samples")
        return Interface(task.generator, Noise(task.latent, dtype), predict, outputs)
    if isinstance(task, Autoencoder):
        predict, outputs = _samples(task.model, spec, "reconstruction", "reconstructed inputs")
    elif isinstance(task, LanguageModel):
        shape = ("batch", "tokens", task.loss_function.num_outputs)
        predict, outputs = task.model, _floats("logits", shape, "logits of the next token")
    elif not task.implements(Task.predict):
        raise UsageError(
            f"a model of task {type(task).__name__} can't be exported: it has no single forward "
            "pass from inputs to predictions"
        )
    elif spec.class_names:
        predict, meaning = task.predict, "probability of each class, by index in class_names"
        outputs = _floats("probabilities", ("batch", spec.num_classes), meaning)
    else:
        predict, meaning = task.predict, "predictions in the unit of the target"
        outputs = _floats("values", ("batch", spec.num_outputs), meaning)
    preparation = preparation_of(spec, task.model, dtype)
    return Interface(task.model, preparation, predict, outputs)


def _floats(name: str, shape: tuple[int | str, ...], meaning: str) -> Port:
    return Port(name, "float32", shape, meaning)


def _samples(network: nn.Module, spec: DataSpec, name: str, meaning: str) -> tuple[Predict, Port]:
    """Return a network that outputs images as pixels, or table rows as normalized features."""
    shape = ("batch", *spec.input_shape)
    if not isinstance(spec.inputs, ImageInputs):
        return network, _floats(name, shape, f"{meaning}; standardized and one-hot")
    images, low, high = spec.inputs, spec.inputs.low, spec.inputs.high
    centre, scale = (torch.tensor(v)[:, None, None] for v in (images.centre, images.scale))

    def predict(inputs: Tensor) -> Tensor:
        return (network(inputs).float() * scale + centre).clamp(low, high)

    return predict, _floats(name, shape, f"{meaning}; pixels from {low} to {high}")
