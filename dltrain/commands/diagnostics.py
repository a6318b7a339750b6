"""What looks wrong with data, model and loss before any training, in words."""

from __future__ import annotations

import hashlib
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from dltrain.checkpoints.store import load_checkpoint
from dltrain.config import Experiment
from dltrain.core.data_spec import TableInputs, TextInputs
from dltrain.core.protocols import Data, Loss, Split
from dltrain.core.task import Task
from dltrain.data.length_buckets import LengthBuckets
from dltrain.data.streaming import Streaming
from dltrain.losses.supervised import BinaryCrossEntropy, CrossEntropy
from dltrain.training.runtime import Runtime
from dltrain.training.trainer import Trainer

MOST_SAMPLES, MOST_READ = 20_000, 1_000
"""Of each split; what goes through every sample looks at no more, fewer where each is a file."""

Kind = Literal[
    "initial loss",
    "unused parameters",
    "dead parameters",
    "constant inputs",
    "duplicate inputs",
    "leakage",
    "labels",
    "unknown tokens",
    "class imbalance",
    "loss and output",
    "does not overfit",
    "disk space",
    "save and load",
]


@dataclass(frozen=True)
class Finding:
    """Something that looks wrong.

    Attributes:
        kind: What sort of thing.
        message: What was seen, why it matters and what to do.
    """

    kind: Kind
    message: str


def of_data(data: Data, experiment: Experiment) -> list[Finding]:
    """Labels, balance, inputs that are constant or come twice, and samples in two splits.

    Args:
        data: The splits.
        experiment: What they are for: what it has set already is not recommended.
    """
    spec, findings = data.spec, []
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    seen = {name: _looked_at(split) for name, split in splits.items() if split is not None}
    train = seen["train"]
    findings += _labels(seen, spec.num_classes)
    if spec.class_counts and min(spec.class_counts) * 10 < max(spec.class_counts):
        rare = spec.class_names[spec.class_counts.index(min(spec.class_counts))]
        often = spec.class_names[spec.class_counts.index(max(spec.class_counts))]
        findings.append(
            Finding(
                "class imbalance",
                f"class {often!r} has {max(spec.class_counts)} training samples and {rare!r} "
                f"{min(spec.class_counts)}: accuracy says little here"
                + _against_imbalance(experiment),
            )
        )
    findings += _constant(train, spec.inputs if isinstance(spec.inputs, TableInputs) else None)
    findings += _unknown(data)
    copies = len(train.hashes) - len(set(train.hashes))
    if copies > len(train.hashes) / 5:
        share = copies / len(train.hashes)
        findings.append(
            Finding(
                "duplicate inputs",
                f"{share:.0%} of {len(train.hashes)} training samples are copies of others: "
                "the data says less than its size",
            )
        )
    for name, other in seen.items():
        both = set(train.hashes) & set(other.hashes) if name != "train" else set()
        count = sum(sample in both for sample in other.hashes)
        if count > len(other.hashes) / 50:
            findings.append(
                Finding(
                    "leakage",
                    f"{count} of {len(other.hashes)} {name} samples are in the training split as "
                    f"well: {name} figures will be too good; take copies out before splitting",
                )
            )
    return findings


def _against_imbalance(experiment: Experiment) -> str:
    """What helps where classes are not balanced, less what the config has already."""
    ways = []
    if not {"f1", "auroc"} & {metric.name for metric in experiment.metrics}:
        ways.append("use f1 or auroc")
    if experiment.loss.options.get("class_weights") is None:
        ways.append("think of class weights in the loss")
    return f"; {', and '.join(ways)}" if ways else ""


@dataclass(frozen=True)
class _Looked:
    """What is known of a split's first samples.

    Attributes:
        hashes: Of each input, or of the text that it was made from.
        targets: (samples, ...).
        least: The smallest value of each place of an input; None where inputs differ in shape.
        most: The largest.
    """

    hashes: list[bytes]
    targets: Tensor
    least: Tensor | None
    most: Tensor | None


def _looked_at(split: Split) -> _Looked:
    hashes: list[bytes] = []
    targets: list[Tensor] = []
    least: Tensor | None = None
    most: Tensor | None = None
    shapes = set()
    most_samples = MOST_READ if isinstance(split, Streaming) else MOST_SAMPLES
    for batch in split.batches(256):
        inputs = batch.inputs.cpu()
        shapes.add(inputs.shape[1:])
        low, high = inputs.amin(0), inputs.amax(0)
        if len(shapes) == 1:
            least = low if least is None else torch.minimum(least, low)
            most = high if most is None else torch.maximum(most, high)
        if isinstance(split, LengthBuckets) and split.digests is not None:
            hashes += [split.digests[sample] for sample in batch.index.tolist()]
        else:
            hashes += [_hash(sample) for sample in inputs]
        targets += list(batch.targets.cpu())
        if len(hashes) >= most_samples:
            break
    alike = len(shapes) == 1
    flat = torch.stack(targets) if len({t.shape for t in targets}) == 1 else torch.empty(0)
    return _Looked(hashes, flat, least if alike else None, most if alike else None)


def _hash(sample: Tensor) -> bytes:
    content = sample.contiguous()
    if not content.is_floating_point():
        content = content.flatten()
        content = content[: int(content.count_nonzero())]  # less the padding
    return hashlib.blake2b(
        content.view(-1).view(torch.uint8).numpy().tobytes(), digest_size=16
    ).digest()


def _labels(seen: dict[str, _Looked], num_classes: int) -> list[Finding]:
    for name, split in seen.items():
        targets = split.targets
        if num_classes and len(targets) and not targets.is_floating_point():
            low, high = int(targets.min()), int(targets.max())
            if low < 0 or high >= num_classes:
                wrong = low if low < 0 else high
                message = (
                    f"the {name} split has a label {wrong}, and there are {num_classes} classes, "
                    f"0 to {num_classes - 1}: training will fail or count it wrongly"
                )
                return [Finding("labels", message)]
    return []


def _unknown(data: Data) -> list[Finding]:
    """Whether most of the training texts is words that the vocabulary does not have."""
    inputs, split = data.spec.inputs, data.train
    if not isinstance(inputs, TextInputs) or inputs.tokenizer == "file":
        return []
    if not isinstance(split, LengthBuckets):
        return []
    unknown = int((split.tokens == inputs.unknown).sum())
    total = int((split.tokens != inputs.padding).sum())
    if unknown <= total / 2:
        return []
    message = (
        f"{unknown / total:.0%} of the tokens in the training texts are unknown, and all alike to "
        "the model: lower data.min_count, raise data.max_size, or take another data.tokenizer"
    )
    return [Finding("unknown tokens", message)]


def _constant(train: _Looked, table: TableInputs | None) -> list[Finding]:
    if train.least is None or train.most is None or len(train.hashes) < 2:
        return []
    same = train.least == train.most
    if bool(same.all()):
        message = "all training inputs are the same: there is nothing to tell them apart by"
        return [Finding("constant inputs", message)]
    if table is None:
        return []
    names, place = [], 0
    for column in table.columns:
        if bool(same[place : place + column.width].all()):
            names.append(column.name)
        place += column.width
    if not names:
        return []
    told = ", ".join(repr(name) for name in names)
    message = f"the same value in all training rows: {told}; such a column says nothing"
    return [Finding("constant inputs", message)]


def of_model(task: Task, data: Data, runtime: Runtime, batch_size: int) -> list[Finding]:
    """Parameters without a gradient, and outputs that are not what the loss takes."""
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
        dead = _cut_off({name: p.grad for name, p in trained if p.grad is not None})
        if unused:
            message = f"the loss does not depend on {_listed(unused)}: training leaves them as is"
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


def _cut_off(gradients: dict[str, Tensor]) -> list[str]:
    """Layers none of whose parameters has a gradient; one of them alone may be so by design."""
    alive: dict[str, bool] = {}
    for name, gradient in gradients.items():
        layer = name.rpartition(".")[0] or name
        alive[layer] = alive.get(layer, False) or bool(gradient.any())
    return [layer for layer, lives in alive.items() if not lives]


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _outputs(model: nn.Module, loss: Loss, inputs: Tensor) -> list[Finding]:
    """Whether probabilities go into a loss that makes them itself."""
    if not isinstance(loss, CrossEntropy | BinaryCrossEntropy) or not inputs.is_floating_point():
        return []
    model.eval()
    with torch.inference_mode():
        # What squashes its outputs does so for any inputs; logits of large ones are large.
        outputs = [model(inputs).float(), model(inputs * 1000).float()]
    model.train()
    between = all(bool(((out >= 0) & (out <= 1)).all()) for out in outputs)
    if not between:
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


def of_initial_loss(task: Task, data: Data, initial_loss: float) -> list[Finding]:
    """Whether an untrained classifier begins at a guess: ln C for C classes."""
    loss, classes = task.loss_function, data.spec.num_classes
    if not isinstance(loss, CrossEntropy | BinaryCrossEntropy) or len(task.phases) > 1:
        return []
    guess = math.log(max(2, classes))
    if guess / 2 <= initial_loss <= 1.5 * guess + 0.5:
        return []
    why = (
        "outputs begin too large: are inputs normalised, and the last layer's weights small?"
        if initial_loss > guess
        else "the model knows the answer before it is trained: is the target among the inputs?"
    )
    message = f"the first loss is {initial_loss:.3f}, and guessing gives ln {max(2, classes)}"
    return [Finding("initial loss", f"{message} = {guess:.3f}; {why}")]


def of_saving(trainer: Trainer, keep: int, place: Path) -> list[Finding]:
    """Room for the checkpoints, and whether what is saved is what was."""
    trainer.save()
    trainer.checkpoint_manager.wait()
    (path,) = trainer.checkpoint_manager.store.all()
    needed = sum(file.stat().st_size for file in path.iterdir()) * (keep + 2)
    free = shutil.disk_usage(_existing(place)).free
    findings = []
    if needed > free:
        message = (
            f"{keep} checkpoints and the best take {needed / 2**20:,.0f} MiB, and {place} has "
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


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above that is there."""
    path = path.absolute()
    return path if path.exists() else _existing(path.parent)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    ours, theirs = (
        tensor.detach().contiguous().view(-1).view(torch.uint8) for tensor in (one, other)
    )
    return torch.equal(ours, theirs)


def overfit(trainer: Trainer, steps: int) -> tuple[float, list[Finding]]:
    """Trains on one batch, which any model that can learn soon knows by heart; its last loss.

    Args:
        trainer: Its weights change.
        steps: How many.
    """
    batch = next(trainer.data.train.batches(trainer.settings.batch_size, epoch=0))
    phase = trainer.task.phases[0]
    trainer.drain()
    trainer.total_steps = trainer.state.updates + steps  # of which the learning rate is a function
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
