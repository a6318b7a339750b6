"""Build the parts of an experiment and connect them, and load trained models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from dltrain.checkpoints.loading import (
    DamagedCheckpointError,
    load_checkpoint,
    load_checkpoint_state,
)
from dltrain.checkpoints.snapshot import num_bytes
from dltrain.checkpoints.store import CheckpointStore
from dltrain.config import Experiment
from dltrain.config.problems import did_you_mean
from dltrain.core.data_spec import DataSpec, contradiction, spec_from_json
from dltrain.core.errors import RunError, UsageError, print_warning, shorten
from dltrain.core.paths import data_folder
from dltrain.core.protocols import Data, DataContext, ProcessGroup
from dltrain.core.task import Phase, Task, TaskContext, TrainedModel, task_class
from dltrain.data.seeding import derive_seed
from dltrain.data.tokenization import verify_tokenizer
from dltrain.distributed.batch_norm import convert_batch_norm
from dltrain.distributed.fsdp import apply_fsdp
from dltrain.loggers import Logger
from dltrain.rundir.changes import changes_since_training, incompatible_checkpoint
from dltrain.rundir.directory import Run
from dltrain.training.checkpoint_checks import check_tensors
from dltrain.training.compilation import compile_task
from dltrain.training.components import (
    build_at,
    make_data,
    make_loss,
    make_metric,
    make_model,
    make_optimizers,
    make_schedule,
    make_task,
)
from dltrain.training.device import (
    benchmark_convolutions,
    make_deterministic,
    random_state,
    resolve_device,
    resolve_precision,
    retain_freed_memory,
    seed_everything,
    set_random_state,
)
from dltrain.training.ema import averaged_parameters
from dltrain.training.limits import require_supported
from dltrain.training.runtime import Runtime
from dltrain.training.trainer import Trainer
from dltrain.training.validation import validate_settings


def build_runtime(experiment: Experiment, process_group: ProcessGroup | None = None) -> Runtime:
    """Find the device, and apply the experiment's process-wide settings of torch.

    Args:
        experiment: The experiment.
        process_group: Ranks that train together, each on a GPU of its own if there are GPUs
            (default: this process alone).

    Raises:
        ConfigError: The machine lacks the device, the device lacks the precision, or a component
            or setting does not support several processes.
    """
    settings, process_group = experiment.train, process_group or ProcessGroup()
    device = build_at(experiment, "train.device", lambda: _device(settings.device, process_group))
    precision = build_at(
        experiment, "train.precision", lambda: resolve_precision(settings.precision, device)
    )
    if settings.keep_memory:
        retain_freed_memory()
    make_deterministic(settings.deterministic)
    torch.set_float32_matmul_precision(settings.matmul_precision)
    require_supported(experiment, precision.name, process_group.world_size)
    is_sharded = settings.distributed == "fsdp" and process_group.world_size > 1
    return Runtime(device, precision, process_group, is_sharded)


def _device(name: str, process_group: ProcessGroup) -> torch.device:
    """See `resolve_device`; each of several ranks uses the GPU of its local rank."""
    device = resolve_device(name)
    if process_group.world_size == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise UsageError(f"device {name!r}: several processes need 'cpu', or 'cuda', one GPU each")
    return resolve_device(f"cuda:{process_group.local_rank}")


def build_data(
    experiment: Experiment,
    runtime: Runtime,
    warn: Callable[[str], None],
    recorded_folder: str | None = None,
) -> Data:
    """Read the data, or download it.

    Args:
        experiment: The experiment.
        runtime: Device and dtype of the batches.
        warn: Called with each line that the user should read.
        recorded_folder: Common data folder that a run has recorded; see `data_folder`.

    Raises:
        DataError: The data is missing or damaged.
        ConfigError: An option does not fit the data, or a split is empty.
    """
    context = DataContext(
        root=data_folder(recorded_folder),
        seed=experiment.seed,
        device=runtime.device,
        dtype=runtime.precision.dtype,
        warn=warn,
    )
    data = build_at(experiment, "data", lambda: make_data(experiment.data, context))
    for name in ("train", "validation", "test"):
        split = getattr(data, name)
        if split is not None and not len(split):
            none = "" if name == "train" else "; a source without this split gives None for it"
            message = f"data {experiment.data.name!r} has no samples in its {name} split{none}"
            raise experiment.problem("data", message)
    if (error := contradiction(data.spec)) is not None:
        message = f"data {experiment.data.name!r} gives a spec that contradicts itself: {error}"
        raise experiment.problem("data", message)
    return data


def build_task(experiment: Experiment, spec: DataSpec, runtime: Runtime) -> Task:
    """Build loss, model, optimizers and metrics, with weights that depend on the seed only.

    Args:
        experiment: The experiment.
        spec: Specification of the data.
        runtime: Device, precision and process group.

    Raises:
        ConfigError: The components don't fit each other or the data.
    """
    seed_everything(experiment.seed)
    dtype, device = runtime.precision.dtype, runtime.device

    if (task_type := task_class(experiment.task.component.builder)) is not None:
        spec = build_at(experiment, "task", lambda: task_type.adapt_spec(spec))
    loss = build_at(experiment, "loss", lambda: make_loss(experiment.loss, spec)).to(device, dtype)
    spec = replace(spec, num_outputs=loss.num_outputs)
    model: nn.Module = build_at(experiment, "model", lambda: make_model(experiment.model, spec)).to(
        device, dtype
    )
    if runtime.process_group.world_size > 1:
        model = convert_batch_norm(model, runtime.process_group)
    # Each batch of texts is as long as its longest text.
    benchmark_convolutions(spec.inputs.kind != "text")
    if spec.inputs.kind == "image":
        # Convolutions on CPUs and tensor cores compute in channels-last; this saves conversions.
        model = model.to(memory_format=torch.channels_last)
    metrics = [
        build_at(experiment, f"metrics.{i}", lambda choice=choice: make_metric(choice, spec))
        for i, choice in enumerate(experiment.metrics)
    ]
    context = TaskContext(
        spec=spec,
        model=model,
        loss=loss,
        metrics=metrics,
        make_phase=partial(_phase, experiment, runtime),
        load_trained_model=partial(_trained_model, runtime=runtime),
        seed=experiment.seed,
        num_images=experiment.recording.images if experiment.recording.tensorboard else 0,
        process_group=runtime.process_group,
    )
    random = random_state()
    task: Task = build_at(experiment, "task", lambda: make_task(experiment.task, context))
    set_random_state(random)  # a task may load another run's model, which draws random numbers
    if runtime.process_group.rank_slice.rank > 0:  # same weights, different dropout
        seed_everything(derive_seed(experiment.seed, runtime.process_group.rank_slice.rank))
    if experiment.train.compile:
        compile_task(task)
    names = [phase.name for phase in task.phases]
    for name in experiment.phases.keys() - names:
        message = f"task {experiment.task.name!r} has no phase {name!r}; it has {', '.join(names)}"
        raise experiment.problem(f"phases.{name}", message + did_you_mean(name, names))
    return task


def _phase(
    experiment: Experiment,
    runtime: Runtime,
    name: str,
    module: nn.Module,
    *,
    averaged: bool = True,
    called: tuple[nn.Module, ...] = (),
) -> Phase:
    """See `task.PhaseFactory`."""
    if runtime.is_sharded and called:
        message = f"FSDP gathers the parameters of phase {name!r} when its module is called, "
        message += f"and task {experiment.task.name!r} calls parts of it instead; use ddp"
        raise experiment.problem("train.distributed", message)
    if runtime.is_sharded:  # before an optimizer refers to the parameters
        apply_fsdp(module, runtime.device)
    chosen = experiment.phase(name)
    is_common = chosen.optimizer == experiment.optimizer
    path = "optimizer" if is_common else f"phases.{name}.optimizer"
    optimizers = build_at(experiment, path, lambda: make_optimizers(chosen.optimizer, module))
    is_common = chosen.schedule == experiment.schedule
    path = "schedule" if is_common else f"phases.{name}.schedule"
    schedule = build_at(experiment, path, lambda: make_schedule(chosen.schedule))
    return Phase(name, module, optimizers, schedule, chosen.clip_norm, averaged, called)


def build_trainer(
    experiment: Experiment,
    data: Data,
    task: Task,
    runtime: Runtime,
    checkpoints: CheckpointStore,
    loggers: Sequence[Logger] = (),
) -> Trainer:
    """Build the trainer.

    Raises:
        ConfigError: See `validate_settings`.
    """
    validate_settings(experiment, data, task, runtime)
    num_embeddings = experiment.recording.embeddings if experiment.recording.tensorboard else 0
    return Trainer(
        task,
        data,
        runtime,
        checkpoints=checkpoints,
        loggers=loggers,
        settings=experiment.train,
        checkpoint_settings=experiment.checkpoint,
        early_stop=experiment.early_stop,
        log_every=experiment.recording.log_every,
        num_embeddings=int(num_embeddings),
    )


@dataclass(frozen=True)
class Trained:
    """A model with a checkpoint's weights, in evaluation mode.

    Attributes:
        experiment: The experiment that trained it.
        spec: Specification of the training data.
        task: The task, which holds the model.
        runtime: Device and precision.
        checkpoint: Path of the checkpoint.
        changes: How the config and the user's own code differ from those of the training.
    """

    experiment: Experiment
    spec: DataSpec
    task: Task
    runtime: Runtime
    checkpoint: Path
    changes: list[str]


def load_trained(
    run_dir: str | Path,
    checkpoint: str | None = None,
    device: str | None = None,
    *,
    runtime: Runtime | None = None,
    with_metrics: bool = True,
    overrides: Sequence[str] = (),
    warn: Callable[[str], None] = print_warning,
) -> Trained:
    """Build a run's model and load its weights, the EMA weights if there are any.

    Args:
        run_dir: Directory of the run.
        checkpoint: `best`, `latest`, or the name of one of the run's checkpoints (default: the
            best where one is marked, else the latest).
        device: Device to use instead of the config's.
        runtime: Runtime to use, if the process has one already (default: that of the config).
        with_metrics: Whether to build the metrics too.
        overrides: KEY=VALUE of settings that do not affect the model.
        warn: Called with a line for each of `Trained.changes`.

    Raises:
        RunError: There is no such checkpoint, it is damaged, or it does not fit the model. No
            other checkpoint is tried.
    """
    run = Run.open(run_dir)
    chosen = [f"train.device={device}"] if device else []
    experiment = run.experiment([*chosen, *overrides])
    changes = changes_since_training(run, experiment, overrides)
    if not with_metrics:
        experiment = replace(experiment, metrics=())
    checkpoints = run.checkpoints()
    try:
        path = checkpoints.find(checkpoint)
        try:
            spec = spec_from_json(load_checkpoint_state(path)["spec"])
            verify_tokenizer(spec.inputs)
        except (KeyError, TypeError, ValueError) as error:
            reason = shorten(" ".join(str(error).split()), 300)
            raise RunError(f"{path}: its description of the data is damaged: {reason}") from error
        runtime = runtime or build_runtime(experiment)
        task = build_task(experiment, spec, runtime)
        snapshot = load_checkpoint(path, num_bytes(task.model.state_dict()))
    except DamagedCheckpointError as error:
        others = ", ".join(saved.name for saved in checkpoints.all())
        error.add_note(f"--checkpoint chooses another; there are: {others}")
        raise
    try:
        check_tensors("model", snapshot.model, task.model.state_dict())
        averaged = [phase.module for phase in task.phases if phase.averaged]
        expected = averaged_parameters(task.model, averaged, experiment.train.ema)
        check_tensors("averaged weights", snapshot.averaged, expected)
        task.model.load_state_dict(snapshot.weights())
    except (RuntimeError, ValueError) as error:
        raise RunError(incompatible_checkpoint(path, run, error)) from error
    task.model.eval()
    if runtime.process_group.is_main:
        for change in changes:
            warn(f"warning: {change}; results may differ")
    return Trained(experiment, spec, task, runtime, path, changes)


def _trained_model(run_dir: str, runtime: Runtime) -> TrainedModel:
    """See `TaskContext.load_trained_model`."""
    trained = load_trained(run_dir, runtime=runtime, with_metrics=False)
    model = trained.task.model.requires_grad_(False)
    predict = trained.task.predict if trained.task.implements(Task.predict) else None
    return TrainedModel(trained.spec, model, predict)
