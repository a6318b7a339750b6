"""Diagnostics of a model, its loss and its checkpoints before training."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from dltrain.checkpoints.loading import load_checkpoint
from dltrain.commands.findings import Finding
from dltrain.core.protocols import Data, Loss
from dltrain.core.task import Task
from dltrain.losses.supervised import BinaryCrossEntropy, CrossEntropy
from dltrain.training.runtime import Runtime
from dltrain.training.trainer import Trainer


def diagnose_model(task: Task, data: Data, runtime: Runtime, batch_size: int) -> list[Finding]:
    """Check for parameters without a gradient, and outputs that do not fit the loss."""
    findings = []
    batch = next(data.train.batches(batch_size, epoch=0))
    batch.step = 0
    task.model.train()
    for phase in task.phases:
        task.model.zero_grad()
        weight = task.weight(batch, phase)
        with runtime.precision.autocast():
            loss = task.loss(batch, phase) / weight
        loss.backward()
        trained = [(n, p) for n, p in phase.module.named_parameters() if p.requires_grad]
        unused = [name for name, p in trained if p.grad is None]
        dead = _dead_layers({name: p.grad for name, p in trained if p.grad is not None})
        if unused:
            message = (
                f"the loss does not depend on {_listed(unused)}: training does not change them"
            )
            findings.append(Finding("unused parameters", message))
        if dead:
            message = (
                f"the gradient is zero for {_listed(dead)}: an activation that never lets anything "
                "through, or a factor of zero"
            )
            findings.append(Finding("dead parameters", message))
    task.model.zero_grad()
    if len(task.phases) == 1 and isinstance(task.loss_function, Loss):
        findings += _outputs(task.model, task.loss_function, batch.inputs)
    return findings


def _dead_layers(gradients: dict[str, Tensor]) -> list[str]:
    """Return layers without any nonzero gradient; a single parameter may lack one by design."""
    alive: dict[str, bool] = {}
    for name, gradient in gradients.items():
        layer = name.rpartition(".")[0] or name
        alive[layer] = alive.get(layer, False) or bool(gradient.any())
    return [layer for layer, is_alive in alive.items() if not is_alive]


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _outputs(model: nn.Module, loss: Loss, inputs: Tensor) -> list[Finding]:
    """Check whether the model gives probabilities to a loss that expects logits."""
    if not isinstance(loss, CrossEntropy | BinaryCrossEntropy) or not inputs.is_floating_point():
        return []
    model.eval()
    with torch.inference_mode():
        # A sigmoid or softmax bounds the outputs for any inputs; logits of large ones are large.
        outputs = [model(inputs).float(), model(inputs * 1000).float()]
    model.train()
    is_bounded = all(bool(((out >= 0) & (out <= 1)).all()) for out in outputs)
    if not is_bounded:
        return []
    sums = [out.sum(1) for out in outputs]
    if isinstance(loss, CrossEntropy):
        if all(torch.allclose(total, torch.ones_like(total), atol=1e-3) for total in sums):
            return [
                Finding(
                    "loss and output",
                    "the model's outputs are probabilities already, and cross_entropy applies a "
                    "softmax itself: take the softmax out of the model, or learning is slow",
                )
            ]
        return []
    message = (
        "the model's outputs stay between 0 and 1, and bce applies a sigmoid itself: take the "
        "sigmoid out of the model, or learning is slow"
    )
    return [Finding("loss and output", message)]


def diagnose_initial_loss(task: Task, data: Data, initial_loss: float) -> list[Finding]:
    """Check whether an untrained classifier starts at the loss of a guess: ln C for C classes."""
    loss, classes = task.loss_function, data.spec.num_classes
    if not isinstance(loss, CrossEntropy | BinaryCrossEntropy) or len(task.phases) > 1:
        return []
    guess = math.log(max(2, classes))
    if guess / 2 <= initial_loss <= 1.5 * guess + 0.5:
        return []
    why = (
        "initial outputs are too large: are inputs normalized, and the last layer's weights small?"
        if initial_loss > guess
        else "the model knows the answer before it is trained: is the target among the inputs?"
    )
    message = f"the first loss is {initial_loss:.3f}, and guessing gives ln {max(2, classes)}"
    return [Finding("initial loss", f"{message} = {guess:.3f}; {why}")]


def diagnose_checkpoints(trainer: Trainer, keep: int, folder: Path) -> list[Finding]:
    """Check the disk space for checkpoints, and whether a checkpoint restores the same state.

    Args:
        trainer: The trainer, which saves a checkpoint and restores it.
        keep: Number of checkpoints that a run keeps.
        folder: Where runs are written; it may not exist yet.
    """
    trainer.save()
    trainer.checkpoint_manager.wait()
    (path,) = trainer.checkpoint_manager.store.all()
    needed = sum(file.stat().st_size for file in path.iterdir()) * (keep + 2)
    free = shutil.disk_usage(_nearest_existing(folder)).free
    findings = []
    if needed > free:
        message = (
            f"{keep} checkpoints and the best take {needed / 2**20:,.0f} MiB, and {folder} has "
            f"{free / 2**20:,.0f} MiB free"
        )
        findings.append(Finding("disk space", message))
    before = {name: p.detach().clone() for name, p in trainer.task.model.named_parameters()}
    before |= {name: b.clone() for name, b in trainer.task.model.named_buffers()}
    for parameter in trainer.task.model.parameters():
        parameter.data.zero_()
    trainer.restore(load_checkpoint(path))
    after = dict([*trainer.task.model.named_parameters(), *trainer.task.model.named_buffers()])
    kept = trainer.task.model.state_dict().keys()
    changed = [n for n in kept & before.keys() if not _same_bits(before[n], after[n])]
    changed += [name for name, _ in trainer.task.model.named_parameters() if name not in kept]
    if changed:
        message = (
            f"a checkpoint does not give back {_listed(changed)} as it was: a `state_dict` of the "
            "model's own leaves it out, or changes it"
        )
        findings.append(Finding("save and load", message))
    return findings


def _nearest_existing(path: Path) -> Path:
    """Return the path, or the nearest directory above it that exists."""
    path = path.absolute()
    return path if path.exists() else _nearest_existing(path.parent)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    first, second = (
        tensor.detach().contiguous().view(-1).view(torch.uint8) for tensor in (one, other)
    )
    return torch.equal(first, second)


def overfit_batch(trainer: Trainer, steps: int) -> tuple[float, list[Finding]]:
    """Train on one batch, which any model that can learn soon memorizes.

    Args:
        trainer: The trainer; its weights change.
        steps: Number of steps.

    Returns:
        The lowest of the last five losses, and findings.
    """
    batch = next(trainer.data.train.batches(trainer.settings.batch_size, epoch=0))
    phase = trainer.task.phases[0]
    trainer.drain()
    trainer.total_steps = trainer.state.updates + steps  # the learning rate is a function of it
    losses = []
    for _ in range(steps):
        trainer.train_step(batch)
        loss, weight, _ = trainer.state.take(phase.name)
        losses.append(loss / weight if weight else math.nan)
    first, last = losses[0], min(losses[-5:])
    if last < first / 2:
        return last, []
    message = (
        f"the loss of one batch went from {first:.4f} to {last:.4f} in {steps} steps: the model "
        "can't learn even that; look at the learning rate, the loss and what is frozen"
    )
    return last, [Finding("does not overfit", message)]
