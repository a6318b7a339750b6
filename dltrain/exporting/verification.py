"""Compare the outputs of a file with those of the model on real samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dltrain.core.errors import RunError
from dltrain.core.protocols import Split
from dltrain.data.seeding import derive_seed, normal
from dltrain.exporting.interface import Interface
from dltrain.exporting.preprocessing import Noise

BATCH_SIZE = 37
"""Size of most batches; the others are a single sample and the split's last batch."""


@dataclass(frozen=True)
class Reference:
    """The model's predictions for a batch.

    Attributes:
        raw: Raw inputs of the file.
        expected: Predictions of the model for the data's own inputs.
        targets: Classes, (batch,) int64; None without classes.
        has_classes: Whether the last dimension of `expected` is of classes or tokens.
        repeated: Whether the samples are part of another batch, so that they count once.
    """

    raw: Tensor
    expected: Tensor
    targets: Tensor | None
    has_classes: bool
    repeated: bool


@dataclass(frozen=True)
class Comparison:
    """The difference between a file and its model.

    Attributes:
        samples: Number of distinct samples.
        batch_sizes: Sizes of the batches.
        largest_difference: Maximum absolute difference of two values, relative to the largest
            value or to 1 if all values are smaller.
        same_label: Fraction of samples, or tokens, with the same most probable class; None without
            classes.
        model_accuracy: Accuracy of the model on these samples; None without classes.
        accuracy: Accuracy of the file; None without classes.
    """

    samples: int
    batch_sizes: list[int]
    largest_difference: float
    same_label: float | None
    model_accuracy: float | None
    accuracy: float | None

    def cost(self) -> str:
        """Describe the loss of precision in comparison with the trained model."""
        text = f"maximum difference from the trained model {self.largest_difference:.1e}"
        if self.same_label is not None:
            text += f"; same class for {self.same_label:.2%}"
        if self.accuracy is not None:
            text += f"; accuracy {self.accuracy:.2%}, trained model {self.model_accuracy:.2%}"
        return text


def references(interface: Interface, split: Split, num_batches: int, seed: int) -> list[Reference]:
    """Return the model's predictions for batches of different sizes, evenly spaced in a split.

    Args:
        interface: Model with its inputs and outputs.
        split: Samples to predict.
        num_batches: Maximum number of batches of `BATCH_SIZE`; two smaller ones are added.
        seed: Random seed of the noise inputs of a generator.
    """
    results = []
    outputs = interface.outputs.name
    with torch.inference_mode():
        for inputs, targets, repeated in _batches(interface, split, num_batches, seed):
            results.append(
                Reference(
                    raw=interface.preparation.raw(inputs),
                    expected=interface.predict(inputs),
                    targets=targets if outputs == "probabilities" else None,
                    has_classes=outputs in ("probabilities", "logits"),
                    repeated=repeated,
                )
            )
    return results


def _batches(
    interface: Interface, split: Split, num_batches: int, seed: int
) -> Iterator[tuple[Tensor, Tensor | None, bool]]:
    """Yield inputs, targets, and whether the samples are part of another batch."""
    if isinstance(interface.preparation, Noise):
        width = interface.inputs.shape[1]
        assert isinstance(width, int)
        sizes = [BATCH_SIZE] * num_batches + [1, BATCH_SIZE - 1]
        for number, size in enumerate(sizes):
            noise = normal(derive_seed(seed, number), torch.arange(size), width)
            yield noise.to(interface.preparation.dtype), None, False
        return
    available = math.ceil(len(split) / BATCH_SIZE)
    count = min(num_batches, available)
    offsets = [index * available // count for index in range(count)]
    for index, offset in enumerate(offsets):
        batch = next(split.batches(BATCH_SIZE, offset=offset))
        if index == 0:
            yield batch.inputs[:1], batch.targets[:1], True
        yield batch.inputs, batch.targets, False
    last, repeated = next(split.batches(BATCH_SIZE, offset=available - 1)), available - 1 in offsets
    if len(last) == BATCH_SIZE:
        last = next(last.split(BATCH_SIZE - 1))
    elif repeated:
        return
    yield last.inputs, last.targets, repeated


def compare(run: Callable[[Tensor], Tensor], expected: Sequence[Reference]) -> Comparison:
    """Compare the outputs of a file with the model's predictions.

    Raises:
        RunError: The file fails, or its outputs have another shape.
    """
    largest, scale, same = 0.0, 1.0, []
    correct: list[Tensor] = []
    model_correct: list[Tensor] = []
    for reference in expected:
        outputs = _outputs(run, reference)
        difference = (outputs.double() - reference.expected.double()).abs().max()
        largest = max(largest, math.inf if difference.isnan() else float(difference))
        scale = max(scale, float(reference.expected.abs().max()))
        if reference.repeated or not reference.has_classes:
            continue
        labels, model_labels = outputs.argmax(dim=-1), reference.expected.argmax(dim=-1)
        same.append((labels == model_labels).flatten())
        if reference.targets is not None:
            correct.append(labels == reference.targets)
            model_correct.append(model_labels == reference.targets)
    return Comparison(
        samples=sum(len(reference.raw) for reference in expected if not reference.repeated),
        batch_sizes=sorted({len(reference.raw) for reference in expected}),
        largest_difference=largest / scale,
        same_label=_mean(same),
        model_accuracy=_mean(model_correct),
        accuracy=_mean(correct),
    )


def _outputs(run: Callable[[Tensor], Tensor], reference: Reference) -> Tensor:
    size = len(reference.raw)
    try:
        with torch.inference_mode():
            outputs = run(reference.raw)
    except Exception as error:  # runtimes may raise any exception
        reason = str(error).strip().partition("\n")[0]
        raise RunError(f"the exported file fails on a batch of {size}: {reason}") from error
    if outputs.shape != reference.expected.shape:
        raise RunError(
            f"the exported file fails on a batch of {size}: expected outputs of shape "
            f"{tuple(reference.expected.shape)}, got {tuple(outputs.shape)}"
        )
    return outputs


def _mean(parts: list[Tensor]) -> float | None:
    return torch.cat(parts).double().mean().item() if parts else None
