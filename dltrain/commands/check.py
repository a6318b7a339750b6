"""Everything that can be known of an experiment before its first step."""

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
from dltrain.commands import diagnostics
from dltrain.commands.diagnostics import Finding
from dltrain.config import Experiment
from dltrain.core.batch import Batch
from dltrain.core.errors import DltrainError, RunError, describe_error, print_warning
from dltrain.core.task import Phase, Task
from dltrain.training.runtime import Runtime
from dltrain.training.validation import validate


@dataclass(frozen=True)
class Check:
    """What is known.

    Attributes:
        parameters: Numbers in the model.
        trainable_parameters: Those that training changes.
        flops_per_sample: Of a forward pass, of each phase, multiplications and additions counted
            apart; matrix products and convolutions alone.
        memory_bytes: Expected at the first step: weights, gradients, optimizer states, averages,
            and what the backward pass keeps of a (micro-)batch. Without torch itself and the data.
        steps_per_epoch: Optimizer steps.
        total_steps: Optimizer steps of the whole run.
        sizes: Samples of each split.
        source: Where the data came from.
        device: Where it would be trained.
        precision: In which numbers.
        initial_loss: Of the first batch.
        overfit_loss: Of the first batch, after training on it; None where that was not asked for.
        findings: What looks wrong though it can be trained.
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
    """Builds everything and takes one batch through model, loss, backward, optimizer and metrics.

    Args:
        experiment: What `dltrain.load` gave.
        overfit: Steps to train on one batch, to see whether the model can learn it.

    Raises:
        ConfigError: A part does not fit; the message has the line.
        DataError: The data is missing or damaged.
        RunError: The first step, or the evaluation after it, fails.
    """
    runtime = build_runtime(experiment)
    data = build_data(experiment, runtime, print_warning)
    task = build_task(experiment, data.spec, runtime)
    findings = diagnostics.of_data(data, experiment)
    for finding in findings:
        if finding.kind == "labels":
            raise RunError(finding.message)
    validate(experiment, data, task, runtime)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = build_trainer(experiment, data, task, runtime, CheckpointStore(Path(scratch)))
        batch = next(data.train.batches(experiment.train.batch_size, epoch=0))
        micro_batch = experiment.train.micro_batch
        part = next(batch.split(None if micro_batch == "auto" else micro_batch))
        with _told("the first step"):
            task.model.train()
            findings += diagnostics.of_model(task, data, runtime, experiment.train.batch_size)
            forward = [_forward(task, phase, part, runtime) for phase in task.phases]
            trainer.train_step(batch)
        loss, weight, _ = trainer.state.take(task.phases[0].name)
        if trainer.state.skipped:
            raise RunError("the first step would be skipped: its loss or gradient is not finite")
        task.model.eval()
        with (
            _told("the evaluation after it"),
            torch.inference_mode(),
            runtime.precision.autocast(),
        ):
            task.evaluate(iter([batch]))
        initial_loss = loss / weight
        findings += diagnostics.of_initial_loss(task, data, initial_loss)
        findings += diagnostics.of_saving(trainer, experiment.checkpoint.keep, Path("runs"))
        total_steps, learnt = trainer.total_steps, None
        if overfit is not None:
            with _told("training on one batch"):
                learnt, found = diagnostics.overfit(trainer, overfit)
            findings += found
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
        overfit_loss=learnt,
        findings=findings,
    )


@contextmanager
def _told(what: str) -> Iterator[None]:
    """What torch, or a model, makes of parts that don't fit, as an error of the run."""
    try:
        yield
    except DltrainError:
        raise
    except Exception as error:  # a model may raise anything
        raise RunError(f"{what} fails: {describe_error(error)}") from error


def _forward(task: Task, phase: Phase, part: Batch, runtime: Runtime) -> tuple[int, int]:
    """FLOPs of a phase's forward pass, and bytes kept for its backward pass."""
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    counter = FlopCounterMode(display=False)
    # Which module an operation belongs to is not asked for, and a loss that takes a gradient itself
    # is more than the counter's own tracker of modules can bear.
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
