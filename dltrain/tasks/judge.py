"""The classifier of another run, which evaluates generated samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dltrain.core.data_spec import ImageInputs
from dltrain.core.errors import DltrainError, OptionError
from dltrain.core.task import TaskContext
from dltrain.metrics.generation import JudgeOutputs
from dltrain.tasks.embedding import last_linear


class Judge:
    """Class probabilities and features of samples.

    Args:
        context: The context of the task.
        run_dir: Run directory of the classifier.

    Raises:
        OptionError: The run does not exist, is not of a classifier with a last linear layer, or has
            samples of another shape.
    """

    def __init__(self, context: TaskContext, run_dir: str) -> None:
        try:
            trained = context.load_trained_model(run_dir)
        except DltrainError as error:
            raise OptionError(
                "task.judge", f"{error}; expected the run of a classifier on the same data"
            ) from error
        layer = last_linear(trained.model)
        if trained.predict is None or not trained.spec.num_classes or layer is None:
            message = f"{run_dir} is not the run of a classifier with a last linear layer"
            raise OptionError("task.judge", message)
        if trained.spec.input_shape != context.spec.input_shape:
            raise OptionError(
                "task.judge",
                f"expected samples of shape {context.spec.input_shape}, and the classifier of "
                f"{run_dir} has {trained.spec.input_shape}",
            )
        self._predict = trained.predict
        self._features = torch.empty(0)
        layer.register_forward_pre_hook(self._keep)
        self._scale, self._shift = _change_of_scale(context.spec.inputs, trained.spec.inputs)

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features = inputs[0]

    def __call__(self, samples: Tensor) -> JudgeOutputs:
        """Return outputs for samples, (batch, *input_shape), normalized as the data of the task."""
        with torch.autocast(samples.device.type, enabled=False):
            samples = samples * self._scale.to(samples) + self._shift.to(samples)
            probabilities = self._predict(samples)
        return JudgeOutputs(probabilities, self._features)


def _change_of_scale(one: object, other: object) -> tuple[Tensor, Tensor]:
    """Return factor and offset that convert one normalization of images to another."""
    if not isinstance(one, ImageInputs) or not isinstance(other, ImageInputs):
        return torch.ones(()), torch.zeros(())
    (centre, scale), (its_centre, its_scale) = (
        torch.tensor([i.centre, i.scale], dtype=torch.float64)[..., None, None]
        for i in (one, other)
    )
    return scale / its_scale, (centre - its_centre) / its_scale
