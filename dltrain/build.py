"""An experiment's parts, put together: the only place that wires. A trained one, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dltrain.checkpoints.store import (
    CheckpointStore,
    DamagedCheckpointError,
    load_checkpoint,
    load_checkpoint_state,
    num_bytes,
)
from dltrain.config import ConfigError, Experiment
from dltrain.config.problems import did_you_mean
from dltrain.core.data_spec import DataSpec, contradiction, spec_from_json
from dltrain.core.errors import (
    DltrainError,
    OptionError,
    RunError,
    UsageError,
    describe_error,
    print_warning,
    shorten,
)
from dltrain.core.paths import data_folder
from dltrain.core.protocols import Data, DataContext, ProcessGroup
from dltrain.core.task import Phase, Task, TaskContext, TrainedModel, task_class
from dltrain.data.seeding import key
from dltrain.data.tokenization import verify_tokenizer
from dltrain.distributed.batch_norm import convert_batch_norm
from dltrain.distributed.fsdp import apply_fsdp
from dltrain.loggers import Logger
from dltrain.rundir.changes import changes_since_training, incompatible_checkpoint
from dltrain.rundir.directory import Run
from dltrain.training.checkpoint_checks import check_tensors
from dltrain.training.compilation import compile_task
from dltrain.training.components import (
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
    """Finds the device and sets up the process for it.

    Args:
        experiment: What it is for.
        world: The processes that train together, each with a GPU of its own where there are GPUs.

    Raises:
        ConfigError: This machine lacks it, can't compute in that precision, or the config asks for
            what several processes can't do together.
    """
    settings, process_group = experiment.train, process_group or ProcessGroup()
    device = _built(experiment, "train.device", lambda: _device(settings.device, process_group))
    precision = _built(
        experiment, "train.precision", lambda: resolve_precision(settings.precision, device)
    )
    if settings.keep_memory:
        retain_freed_memory()
    make_deterministic(settings.deterministic)
    torch.set_float32_matmul_precision(settings.matmul_precision)
    require_supported(experiment, precision.name, process_group.world_size)
    shards = settings.distributed == "fsdp" and process_group.world_size > 1
    return Runtime(device, precision, process_group, shards)


def _device(name: str, process_group: ProcessGroup) -> torch.device:
    """See `resolve_device`; of several processes, each has the GPU of its number."""
    device = resolve_device(name)
    if process_group.world_size == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise UsageError(f"device {name!r}: several processes need 'cpu', or 'cuda', one GPU each")
    return resolve_device(f"cuda:{process_group.local_rank}")


def build_data(
    experiment: Experiment,
    runtime: Runtime,
    say: Callable[[str], None],
    folder: str | None = None,
) -> Data:
    """Reads, or downloads, the data.

    Args:
        experiment: What it is for.
        machine: Where batches are wanted.
        say: Prints a line that the user must not miss.
        folder: The common data folder that a run has recorded; see `data_folder`.

    Raises:
        DataError: It is missing or damaged.
        ConfigError: The config asks for something that this data can't give, or a split is empty.
    """
    context = DataContext(
        root=data_folder(folder),
        seed=experiment.seed,
        device=runtime.device,
        dtype=runtime.precision.dtype,
        warn=say,
    )
    data = _built(experiment, "data", lambda: make_data(experiment.data, context))
    for name in ("train", "validation", "test"):
        split = getattr(data, name)
        if split is not None and not len(split):
            none = "" if name == "train" else "; a source without this split gives None for it"
            message = f"data {experiment.data.name!r} has no samples in its {name} split{none}"
            raise experiment.problem("data", message)
    if (wrong := contradiction(data.spec)) is not None:
        message = f"data {experiment.data.name!r} gives a spec that contradicts itself: {wrong}"
        raise experiment.problem("data", message)
    return data


def build_task(experiment: Experiment, spec: DataSpec, runtime: Runtime) -> Task:
    """Builds loss, model, optimizers and metrics; the weights are decided by the seed.

    Raises:
        ConfigError: The parts don't fit each other or the data.
    """
    seed_everything(experiment.seed)
    dtype, device = runtime.precision.dtype, runtime.device

    if (task_type := task_class(experiment.task.component.builder)) is not None:
        spec = _built(experiment, "task", lambda: task_type.adapt_spec(spec))
    loss = _built(experiment, "loss", lambda: make_loss(experiment.loss, spec)).to(device, dtype)
    spec = replace(spec, num_outputs=loss.num_outputs)
    model: nn.Module = _built(experiment, "model", lambda: make_model(experiment.model, spec)).to(
        device, dtype
    )
    if runtime.process_group.world_size > 1:
        model = convert_batch_norm(model, runtime.process_group)
    # Batches of texts are each as long as their longest.
    benchmark_convolutions(spec.inputs.kind != "text")
    if spec.inputs.kind == "image":
        # Convolutions on CPUs and tensor cores work channels-last inside; this spares conversions.
        model = model.to(memory_format=torch.channels_last)
    metrics = [
        _built(experiment, f"metrics.{i}", lambda choice=choice: make_metric(choice, spec))
        for i, choice in enumerate(experiment.metrics)
    ]
    parts = TaskContext(
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
    task: Task = _built(experiment, "task", lambda: make_task(experiment.task, parts))
    set_random_state(random)  # another run's model, built for this task, leaves no trace
    if runtime.process_group.rank_slice.rank > 0:  # the weights are alike; dropout is to differ
        seed_everything(key(experiment.seed, runtime.process_group.rank_slice.rank))
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
    optimizers = _built(experiment, path, lambda: make_optimizers(chosen.optimizer, module))
    is_common = chosen.schedule == experiment.schedule
    path = "schedule" if is_common else f"phases.{name}.schedule"
    schedule = _built(experiment, path, lambda: make_schedule(chosen.schedule))
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
        precision=runtime.precision,
        device=runtime.device,
        checkpoints=checkpoints,
        loggers=loggers,
        settings=experiment.train,
        checkpoint_settings=experiment.checkpoint,
        early_stop=experiment.early_stop,
        log_every=experiment.recording.log_every,
        num_embeddings=int(num_embeddings),
        process_group=runtime.process_group,
    )


@dataclass(frozen=True)
class Trained:
    """A model with a checkpoint's weights, in evaluation mode.

    Attributes:
        experiment: What it was trained as.
        spec: What its data was like.
        task: The model and what it is used for.
        machine: Where it is.
        checkpoint: Where the weights came from.
        changes: What of the config and of the user's own code is not as in training.
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
    measures: bool = True,
    overrides: Sequence[str] = (),
    warn: Callable[[str], None] = print_warning,
) -> Trained:
    """Builds the model and loads its weights; averaged ones where EMA was on.

    Args:
        run_dir: The run.
        checkpoint: `best`, `latest`, or the name of one of the run's checkpoints; by default the
            best where one is marked, else the latest.
        device: Instead of the config's.
        machine: Where to compute, if the process has been set up for it already.
        measures: Whether the metrics, and what they need, are wanted too.
        overrides: KEY=VALUE, of what does not change the model.
        warn: Receives a line for each of `Trained.changes`.

    Raises:
        RunError: There is no such checkpoint, it is damaged, or the model is another one by now;
            never falls back to another checkpoint.
    """
    run = Run.open(run_dir)
    chosen = [f"train.device={device}"] if device else []
    experiment = run.experiment([*chosen, *overrides])
    changes = changes_since_training(run, experiment, overrides)
    if not measures:
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
    """See `task.TaskContext.trained`."""
    trained = load_trained(run_dir, runtime=runtime, measures=False)
    model = trained.task.model.requires_grad_(False)
    predict = trained.task.predict if trained.task.implements(Task.predict) else None
    return TrainedModel(trained.spec, model, predict)


def _built(experiment: Experiment, path: str, make: Callable[[], Any]) -> Any:
    """What `make` gives; a mistake in the config is told at the line of its key."""
    try:
        return make()
    except OptionError as error:
        # A task is made of the whole config: its options are keys from the top.
        key = error.option if path == "task" else f"{path}.{error.option}"
        raise experiment.problem(key, str(error)) from error
    except ConfigError:
        raise
    except UsageError as error:
        raise experiment.problem(path, str(error)) from error
    except DltrainError:
        raise
    except Exception as error:
        # Torch's own, for a size that no memory holds, say; or that of a user's own component.
        message = describe_error(error).partition("\n")[0]
        raise experiment.problem(path, f"can't be built: {message}") from error
