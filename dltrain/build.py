"""An experiment's parts, put together: the only place that wires."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dltrain.checkpoint import Checkpoints
from dltrain.config import Experiment
from dltrain.config.problems import did_you_mean
from dltrain.device import (
    Numerics,
    keep_large_blocks,
    make_deterministic,
    resolve_device,
    resolve_numerics,
    seed_everything,
)
from dltrain.errors import OptionError, UsageError
from dltrain.recording import Recorder
from dltrain.spec import Data, DataContext, DataSpec, Task
from dltrain.trainer import Trainer


@dataclass(frozen=True)
class Machine:
    """Where and in which numbers an experiment computes."""

    device: torch.device
    numerics: Numerics


def build_machine(experiment: Experiment) -> Machine:
    """Finds the device and sets up the process for it.

    Raises:
        ConfigError: This machine lacks it, or can't compute in that precision.
    """
    settings = experiment.train
    device = _built(experiment, "train.device", lambda: resolve_device(settings.device))
    numerics = _built(
        experiment, "train.precision", lambda: resolve_numerics(settings.precision, device)
    )
    keep_large_blocks()
    make_deterministic(experiment.train.deterministic)
    return Machine(device, numerics)


def build_data(experiment: Experiment, machine: Machine, say: Callable[[str], None]) -> Data:
    """Reads, or downloads, the data.

    Raises:
        DataError: It is missing or damaged.
        ConfigError: The config asks for something that this data can't give.
    """
    context = DataContext(
        root=Path(os.environ.get("DLTRAIN_DATA", "data")),
        seed=experiment.seed,
        device=machine.device,
        dtype=machine.numerics.dtype,
        say=say,
    )
    return _built(experiment, "data", lambda: experiment.data.build(context))


def build_task(experiment: Experiment, spec: DataSpec, machine: Machine) -> Task:
    """Builds loss, model, optimizers and metrics; the weights are decided by the seed.

    Raises:
        ConfigError: The parts don't fit each other or the data.
    """
    seed_everything(experiment.seed)
    dtype, device = machine.numerics.dtype, machine.device

    loss = _built(experiment, "loss", lambda: experiment.loss.build(spec)).to(device, dtype)
    spec = replace(spec, num_outputs=loss.num_outputs)
    model: nn.Module = _built(experiment, "model", lambda: experiment.model.build(spec)).to(
        device, dtype
    )
    if spec.inputs.kind == "image":
        # Convolutions on CPUs and tensor cores work channels-last inside; this spares conversions.
        model = model.to(memory_format=torch.channels_last)
    optimizers = _built(experiment, "optimizer", lambda: experiment.optimizer.build(model))
    if not isinstance(optimizers, tuple):
        optimizers = (optimizers,)
    metrics = [
        _built(experiment, f"metrics.{i}", lambda choice=choice: choice.build(spec))
        for i, choice in enumerate(experiment.metrics)
    ]
    if experiment.train.compile:
        model.compile()
    images = experiment.recording.images if experiment.recording.tensorboard else 0
    return _built(
        experiment,
        "metrics",
        lambda: experiment.task.build(spec, model, optimizers, loss, metrics, images),
    )


def build_trainer(
    experiment: Experiment,
    data: Data,
    task: Task,
    machine: Machine,
    checkpoints: Checkpoints,
    recorders: Sequence[Recorder] = (),
) -> Trainer:
    """Puts the trainer together.

    Raises:
        ConfigError: A monitored scalar does not exist, or there is nothing to train on.
    """
    if not len(data.train):
        raise experiment.problem("data", "the training split is empty")
    trainer = Trainer(
        task,
        data,
        experiment.schedule.build(),
        numerics=machine.numerics,
        device=machine.device,
        checkpoints=checkpoints,
        recorders=recorders,
        settings=experiment.train,
        checkpoint_settings=experiment.checkpoint,
        early_stop=experiment.early_stop,
        log_every=experiment.recording.log_every,
    )
    monitored = {"checkpoint.best": experiment.checkpoint.best}
    if experiment.early_stop:
        monitored["early_stop.monitor"] = experiment.early_stop.monitor
    for path, name in monitored.items():
        if name is not None and name not in trainer.monitored:
            known = ", ".join(trainer.monitored)
            raise experiment.problem(
                path,
                f"this run has no scalar {name!r}; it has {known}"
                + did_you_mean(name, trainer.monitored),
            )
    return trainer


def _built(experiment: Experiment, path: str, make: Callable[[], Any]) -> Any:
    """What `make` gives; a mistake in the config is told at the line of its key."""
    try:
        return make()
    except OptionError as error:
        raise experiment.problem(f"{path}.{error.option}", str(error)) from error
    except UsageError as error:
        raise experiment.problem(path, str(error)) from error
