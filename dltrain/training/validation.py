"""Validation of an experiment's settings against its data, task and runtime.

Nothing is written here, so an experiment that can't be trained leaves no run directory.
"""

from __future__ import annotations

from dltrain.config import Experiment
from dltrain.config.problems import did_you_mean
from dltrain.core.protocols import Data
from dltrain.core.task import Task
from dltrain.training.cuda_graph import cuda_graph_blocker
from dltrain.training.monitoring import monitorable_scalars, undirected_scalars
from dltrain.training.runtime import Runtime
from dltrain.training.single_sample import single_sample_error


def validate(experiment: Experiment, data: Data, task: Task, runtime: Runtime) -> None:
    """Raise an error where the experiment can't be trained as its config says.

    Includes a forward pass for models that may not accept the smallest batch. All ranks call this
    together.

    Raises:
        ConfigError: A setting does not fit the data, the task or the device.
    """
    validate_settings(experiment, data, task, runtime)
    _refuse_single_sample_batch(experiment, data, task, runtime)


def validate_settings(experiment: Experiment, data: Data, task: Task, runtime: Runtime) -> None:
    """Do what `validate` does, without a forward pass.

    Raises:
        ConfigError: A setting does not fit the data, the task or the device.
    """
    settings, recording = experiment.train, experiment.recording
    samples, size = len(data.train), settings.batch_size
    if settings.drop_last and samples < size:
        message = f"leaves no batch: the training split has {samples} samples, batch_size is {size}"
        raise experiment.problem("train.drop_last", message)
    if recording.tensorboard and recording.embeddings and not task.implements(Task.embed):
        message = f"task {experiment.task.name!r} has no points to show; set it to false"
        raise experiment.problem("recording.embeddings", message)
    if settings.cuda_graph == "on":
        blocker = cuda_graph_blocker(
            settings, runtime.precision, task, data.train, runtime.device, runtime.process_group
        )
        if blocker is not None:
            raise experiment.problem("train.cuda_graph", f"no graph of a step: {blocker}")
    monitored = {"checkpoint.best": experiment.checkpoint.best}
    if experiment.early_stop:
        monitored["early_stop.monitor"] = experiment.early_stop.monitor
    for path, name in monitored.items():
        if name is not None and (error := monitor_error(task, data, name)) is not None:
            raise experiment.problem(path, error)


def monitor_error(task: Task, data: Data, name: str) -> str | None:
    """Return why a scalar can't be monitored; None if it can."""
    monitorable = monitorable_scalars(task, data)
    if name in monitorable:
        return None
    if name in undirected_scalars(task):
        return (
            f"it is not known whether a higher {name!r} is better: "
            "set the attribute higher_is_better of the metric's function or object"
        )
    known, hint = ", ".join(monitorable), did_you_mean(name, monitorable)
    return f"this run has no scalar {name!r}; it has {known}{hint}"


def _refuse_single_sample_batch(
    experiment: Experiment, data: Data, task: Task, runtime: Runtime
) -> None:
    """Raise a ConfigError if a step will have a slice of one sample that the model rejects.

    Batch normalization over rows does, for instance.
    """
    settings = experiment.train
    error = single_sample_error(settings, data, task, runtime)
    if error is not None:
        key = "micro_batch" if settings.micro_batch else "batch_size"
        hint = "set train.drop_last: true, or choose another train.batch_size"
        hint += " or train.micro_batch" if settings.micro_batch else ""
        raise experiment.problem(f"train.{key}", f"{error}; {hint}")
