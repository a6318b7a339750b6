"""Check an experiment: everything that is known before and with its first step."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from dltrain.build import build_data, build_runtime, build_task, build_trainer
from dltrain.checkpoints.store import CheckpointStore
from dltrain.commands.data_diagnostics import diagnose_data
from dltrain.commands.diagnostics import (
    diagnose_checkpoints,
    diagnose_initial_loss,
    diagnose_model,
    overfit_batch,
)
from dltrain.commands.findings import Finding
from dltrain.config import Experiment
from dltrain.core.batch import Batch
from dltrain.core.errors import DltrainError, RunError, describe_error, print_warning
from dltrain.core.task import Phase, Task
from dltrain.training.runtime import Runtime
from dltrain.training.validation import validate


@dataclass(frozen=True)
class Check:
    """Properties of an experiment that is ready to train.

    Attributes:
        parameters: Number of parameters of the model.
        trainable_parameters: Number of parameters that require a gradient.
        flops_per_sample: FLOPs of a forward pass of all phases. Matrix products and convolutions
            only; a multiplication and an addition count as two.
        memory_bytes: Expected memory at the first step: weights, gradients, optimizer states, EMA
            weights, and activations of a (micro-)batch. Without torch itself and the data.
        steps_per_epoch: Number of optimizer steps in an epoch.
        total_steps: Number of optimizer steps of the whole run.
        sizes: Number of samples of each split.
        source: Source of the data.
        device: Device on which the experiment would be trained.
        precision: Precision in which it would be trained.
        initial_loss: Loss of the first batch.
        overfit_loss: Loss of the first batch after training on it; None if not requested.
        findings: What looks wrong, although the experiment can be trained.
    """

    parameters: int
    trainable_parameters: int
    flops_per_sample: int
    memory_bytes: int
    steps_per_epoch: int
    total_steps: int
    sizes: dict[str, int]
    source: str
    device: str
    precision: str
    initial_loss: float
    overfit_loss: float | None
    findings: list[Finding]


def check(experiment: Experiment, *, overfit: int | None = None) -> Check:
    """Build everything, and take one optimizer step and one evaluation of a batch.

    Args:
        experiment: The experiment; see `dltrain.load`.
        overfit: Number of steps to train on one batch, to test whether the model can learn it.

    Raises:
        ConfigError: The experiment can't be trained as its config says; the message has the line.
        DataError: The data is missing or damaged.
        RunError: The first step, or the evaluation after it, fails.
    """
    runtime = build_runtime(experiment)
    data = build_data(experiment, runtime, print_warning)
    task = build_task(experiment, data.spec, runtime)
    findings = diagnose_data(data, experiment)
    for finding in findings:
        if finding.kind == "labels":
            raise RunError(finding.message)
    validate(experiment, data, task, runtime)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = build_trainer(experiment, data, task, runtime, CheckpointStore(Path(scratch)))
        batch = next(data.train.batches(experiment.train.batch_size, epoch=0))
        micro_batch = experiment.train.micro_batch
        part = next(batch.split(None if micro_batch == "auto" else micro_batch))
        with _as_run_error("the first step"):
            task.model.train()
            findings += diagnose_model(task, data, runtime, experiment.train.batch_size)
            forward = [_forward(task, phase, part, runtime) for phase in task.phases]
            trainer.train_step(batch)
        loss, weight, _ = trainer.state.take(task.phases[0].name)
        if trainer.state.skipped:
            raise RunError("the first step would be skipped: its loss or gradient is not finite")
        task.model.eval()
        with (
            _as_run_error("the evaluation after it"),
            torch.inference_mode(),
            runtime.precision.autocast(),
        ):
            task.evaluate(iter([batch]))
        initial_loss = loss / weight
        findings += diagnose_initial_loss(task, data, initial_loss)
        findings += diagnose_checkpoints(trainer, experiment.checkpoint.keep, Path("runs"))
        total_steps, overfit_loss = trainer.total_steps, None
        if overfit is not None:
            with _as_run_error("training on one batch"):
                overfit_loss, more = overfit_batch(trainer, overfit)
            findings += more
    model = task.model
    states = sum(
        value.numel() * value.element_size()
        for phase in task.phases
        for optimizer in phase.optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    trainable = [p for p in model.parameters() if p.requires_grad]
    gradients = sum(p.numel() * p.element_size() for p in trainable)
    averages = gradients if experiment.train.ema is not None else 0
    splits = {"train": data.train, "val": data.validation, "test": data.test}
    return Check(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable_parameters=sum(p.numel() for p in trainable),
        flops_per_sample=sum(flops for flops, _ in forward) // len(part),
        memory_bytes=weights + gradients + states + averages + max(kept for _, kept in forward),
        steps_per_epoch=trainer.steps_per_epoch,
        total_steps=total_steps,
        sizes={name: len(split) for name, split in splits.items() if split is not None},
        source=data.source,
        device=str(runtime.device),
        precision=runtime.precision.name,
        initial_loss=initial_loss,
        overfit_loss=overfit_loss,
        findings=findings,
    )


@contextmanager
def _as_run_error(action: str) -> Iterator[None]:
    """Turn any error, such as torch's for shapes that don't match, into a RunError."""
    try:
        yield
    except DltrainError:
        raise
    except Exception as error:  # a model may raise anything
        raise RunError(f"{action} fails: {describe_error(error)}") from error


def _forward(task: Task, phase: Phase, part: Batch, runtime: Runtime) -> tuple[int, int]:
    """Return FLOPs of a phase's forward pass, and bytes saved for its backward pass."""
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    counter = FlopCounterMode(display=False)
    # The counter's own tracker of modules fails on a loss that computes a gradient itself, and
    # FLOPs by module are not needed.
    counter.mod_tracker = _NoModules()  # pyright: ignore[reportAttributeAccessIssue]
    with (
        counter,
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
        runtime.precision.autocast(),
    ):
        task.loss(part, phase)
    return counter.get_total_flops(), kept


class _NoModules(nullcontext[None]):
    parents = ("Global",)
