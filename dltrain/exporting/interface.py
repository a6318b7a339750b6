"""What goes into an exported file and what comes out of it."""

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
"""A model's inputs to what is wanted of it."""


class Interface(nn.Module):
    """Raw inputs to predictions: what a file holds.

    Args:
        model: What has the weights that `predict` uses; the task's, not a copy.
        preparation: Raw inputs to the model's.
        predict: The model's inputs to predictions.
        outputs: What comes out.
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
        """What goes in."""
        return self.preparation.port

    def forward(self, raw: Tensor) -> Tensor:
        """Raw inputs to predictions."""
        return self.predict(self.preparation(raw))


def interface_of(task: Task, spec: DataSpec, dtype: torch.dtype) -> Interface:
    """How to use a task's model from outside.

    Args:
        task: With trained weights, on the CPU.
        spec: Of the data.
        dtype: Of the model's inputs, where they are floats.

    Raises:
        UsageError: The task's model has no forward pass that a file could hold.
    """
    if isinstance(task, Gan):
        predict, made = _samples(task.generator, spec, "pictures", "made")
        return Interface(task.generator, Noise(task.latent, dtype), predict, made)
    if isinstance(task, Autoencoder):
        predict, outputs = _samples(task.model, spec, "reconstruction", "through the code")
    elif isinstance(task, LanguageModel):
        shape = ("batch", "tokens", task.loss_function.num_outputs)
        predict, outputs = task.model, _floats("logits", shape, "of the token after each")
    elif not task.implements(Task.predict):
        raise UsageError(
            f"a model of task {type(task).__name__} can't be exported: it has no single forward "
            "pass from inputs to predictions"
        )
    elif spec.class_names:
        meaning = "of each class, in the order of class_names"
        predict = task.predict
        outputs = _floats("probabilities", ("batch", spec.num_classes), meaning)
    else:
        predict = task.predict
        outputs = _floats("values", ("batch", spec.num_outputs), "in the target's own unit")
    preparation = preparation_of(spec, task.model, dtype)
    return Interface(task.model, preparation, predict, outputs)


def _floats(name: str, shape: tuple[int | str, ...], meaning: str) -> Port:
    return Port(name, "float32", shape, meaning)


def _samples(network: nn.Module, spec: DataSpec, name: str, meaning: str) -> tuple[Predict, Port]:
    """Pictures are given in pixels; rows as the model sees them."""
    shape = ("batch", *spec.input_shape)
    if not isinstance(spec.inputs, ImageInputs):
        return network, _floats(name, shape, f"{meaning}; standardised and one-hot")
    images, low, high = spec.inputs, spec.inputs.low, spec.inputs.high
    centre, scale = (torch.tensor(v)[:, None, None] for v in (images.centre, images.scale))

    def predict(inputs: Tensor) -> Tensor:
        return (network(inputs).float() * scale + centre).clamp(low, high)

    return predict, _floats(name, shape, f"{meaning}; pixels from {low} to {high}")
