"""Diagnostics of data before training: labels, balance, constant or duplicate inputs, leakage."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from dltrain.commands.findings import Finding
from dltrain.config import Experiment
from dltrain.core.data_spec import TableInputs, TextInputs
from dltrain.core.protocols import Data, Split
from dltrain.data.length_buckets import LengthBuckets
from dltrain.data.streaming import Streaming

MOST_SAMPLES, MOST_READ = 20_000, 1_000
"""Most samples of a split that are inspected: in memory, and where each is read from a file."""


def diagnose_data(data: Data, experiment: Experiment) -> list[Finding]:
    """Check labels, balance, constant and duplicate inputs, and samples in two splits.

    Args:
        data: The splits.
        experiment: The experiment; what its config has already is not recommended.
    """
    spec, findings = data.spec, []
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    samples = {name: _inspect(split) for name, split in splits.items() if split is not None}
    train = samples["train"]
    findings += _labels(samples, spec.num_classes)
    if spec.class_counts and min(spec.class_counts) * 10 < max(spec.class_counts):
        rarest = spec.class_names[spec.class_counts.index(min(spec.class_counts))]
        commonest = spec.class_names[spec.class_counts.index(max(spec.class_counts))]
        findings.append(
            Finding(
                "class imbalance",
                f"class {commonest!r} has {max(spec.class_counts)} training samples and {rarest!r} "
                f"{min(spec.class_counts)}: accuracy says little here"
                + _against_imbalance(experiment),
            )
        )
    findings += _constant_inputs(
        train, spec.inputs if isinstance(spec.inputs, TableInputs) else None
    )
    findings += _unknown_tokens(data)
    copies = len(train.hashes) - len(set(train.hashes))
    if copies > len(train.hashes) / 5:
        fraction = copies / len(train.hashes)
        findings.append(
            Finding(
                "duplicate inputs",
                f"{fraction:.0%} of {len(train.hashes)} training samples are copies of others: "
                "the data has less information than its size suggests",
            )
        )
    for name, other in samples.items():
        both = set(train.hashes) & set(other.hashes) if name != "train" else set()
        count = sum(sample in both for sample in other.hashes)
        if count > len(other.hashes) / 50:
            findings.append(
                Finding(
                    "leakage",
                    f"{count} of {len(other.hashes)} {name} samples are in the training split as "
                    f"well: {name} metrics will be too good; take copies out before splitting",
                )
            )
    return findings


def _against_imbalance(experiment: Experiment) -> str:
    """Return what helps where classes are not balanced, except for what the config has already."""
    ways = []
    if not {"f1", "auroc"} & {metric.name for metric in experiment.metrics}:
        ways.append("use f1 or auroc")
    if experiment.loss.options.get("class_weights") is None:
        ways.append("consider class weights in the loss")
    return f"; {', and '.join(ways)}" if ways else ""


@dataclass(frozen=True)
class _Samples:
    """The first samples of a split.

    Attributes:
        hashes: Hash of each input, or of the text that it was made from.
        targets: (samples, ...); empty if their shapes differ.
        minimum: Minimum of each element of the inputs; None if their shapes differ.
        maximum: Maximum, likewise.
    """

    hashes: list[bytes]
    targets: Tensor
    minimum: Tensor | None
    maximum: Tensor | None


def _inspect(split: Split) -> _Samples:
    hashes: list[bytes] = []
    targets: list[Tensor] = []
    minimum: Tensor | None = None
    maximum: Tensor | None = None
    shapes = set()
    most_samples = MOST_READ if isinstance(split, Streaming) else MOST_SAMPLES
    for batch in split.batches(256):
        inputs = batch.inputs.cpu()
        shapes.add(inputs.shape[1:])
        low, high = inputs.amin(0), inputs.amax(0)
        if len(shapes) == 1:
            minimum = low if minimum is None else torch.minimum(minimum, low)
            maximum = high if maximum is None else torch.maximum(maximum, high)
        if isinstance(split, LengthBuckets) and split.digests is not None:
            hashes += [split.digests[sample] for sample in batch.index.tolist()]
        else:
            hashes += [_hash(sample) for sample in inputs]
        targets += list(batch.targets.cpu())
        if len(hashes) >= most_samples:
            break
    if len(shapes) > 1:
        minimum = maximum = None
    same = len({target.shape for target in targets}) == 1
    return _Samples(hashes, torch.stack(targets) if same else torch.empty(0), minimum, maximum)


def _hash(sample: Tensor) -> bytes:
    content = sample.contiguous()
    if not content.is_floating_point():
        content = content.flatten()
        content = content[: int(content.count_nonzero())]  # without the padding
    return hashlib.blake2b(
        content.view(-1).view(torch.uint8).numpy().tobytes(), digest_size=16
    ).digest()


def _labels(samples: dict[str, _Samples], num_classes: int) -> list[Finding]:
    for name, split in samples.items():
        targets = split.targets
        if num_classes and len(targets) and not targets.is_floating_point():
            low, high = int(targets.min()), int(targets.max())
            if low < 0 or high >= num_classes:
                wrong = low if low < 0 else high
                message = (
                    f"the {name} split has a label {wrong}, and there are {num_classes} classes, "
                    f"0 to {num_classes - 1}: training will fail, or metrics will be wrong"
                )
                return [Finding("labels", message)]
    return []


def _unknown_tokens(data: Data) -> list[Finding]:
    """Check whether most tokens of the training texts are missing in the vocabulary."""
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


def _constant_inputs(train: _Samples, table: TableInputs | None) -> list[Finding]:
    if train.minimum is None or train.maximum is None or len(train.hashes) < 2:
        return []
    same = train.minimum == train.maximum
    if bool(same.all()):
        message = "all training inputs are the same: the model can't distinguish them"
        return [Finding("constant inputs", message)]
    if table is None:
        return []
    names, start = [], 0
    for column in table.columns:
        if bool(same[start : start + column.width].all()):
            names.append(column.name)
        start += column.width
    if not names:
        return []
    listed = ", ".join(repr(name) for name in names)
    message = f"the same value in all training rows: {listed}; such a column has no information"
    return [Finding("constant inputs", message)]
