"""Whether a file gives what the model gives, on real samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dltrain.core.errors import RunError
from dltrain.core.protocols import Split
from dltrain.data.seeding import key, normal
from dltrain.exporting.interface import Interface
from dltrain.exporting.preprocessing import Noise

BATCH_SIZE = 37
"""Of most batches; the others are a sample alone, and the split's last ones, however many."""


@dataclass(frozen=True)
class Reference:
    """What the model gives for a batch.

    Attributes:
        raw: What goes into the file.
        expected: The model's predictions for it, by the data's own inputs.
        targets: (batch,) int64 classes; None where there are none.
        has_classes: Whether the last dimension of `expected` is one of classes, or tokens.
        repeated: Whether the samples are part of another batch, and are not to be counted again.
    """

    raw: Tensor
    expected: Tensor
    targets: Tensor | None
    has_classes: bool
    repeated: bool


@dataclass(frozen=True)
class Comparison:
    """How far a file is from the model that it was made of.

    Attributes:
        samples: How many were compared; those that came in two batches count once.
        batch_sizes: Of the batches that they came in.
        largest_difference: Between two values, as a share of the largest value, or of 1 where all
            are smaller.
        same_label: Share of samples, or tokens, with the same most probable class; None without
            classes.
        model_accuracy: Of the model on these samples; None without classes.
        accuracy: Of the file.
    """

    samples: int
    batch_sizes: list[int]
    largest_difference: float
    same_label: float | None
    model_accuracy: float | None
    accuracy: float | None

    def cost(self) -> str:
        """What is lost against the model, in words."""
        text = f"differs from the trained model by {self.largest_difference:.1e} at most"
        if self.same_label is not None:
            text += f"; the same class for {self.same_label:.2%}"
        if self.accuracy is not None:
            text += f"; accuracy {self.accuracy:.2%}, trained model {self.model_accuracy:.2%}"
        return text


def references(interface: Interface, split: Split, num_batches: int, seed: int) -> list[Reference]:
    """The model's own predictions for batches of different sizes, from all over a split.

    Args:
        interface: The model.
        split: The samples.
        num_batches: Of `BATCH_SIZE`, at most; two smaller ones are added.
        seed: Of the noise, where the model starts from noise.
    """
    found = []
    outputs = interface.outputs.name
    with torch.inference_mode():
        for inputs, targets, repeated in _batches(interface, split, num_batches, seed):
            found.append(
                Reference(
                    raw=interface.preparation.raw(inputs),
                    expected=interface.predict(inputs),
                    targets=targets if outputs == "probabilities" else None,
                    has_classes=outputs in ("probabilities", "logits"),
                    repeated=repeated,
                )
            )
    return found


def _batches(
    interface: Interface, split: Split, num_batches: int, seed: int
) -> Iterator[tuple[Tensor, Tensor | None, bool]]:
    """Inputs, targets, and whether the samples are part of another batch."""
    if isinstance(interface.preparation, Noise):
        width = interface.inputs.shape[1]
        assert isinstance(width, int)
        sizes = [BATCH_SIZE] * num_batches + [1, BATCH_SIZE - 1]
        for number, size in enumerate(sizes):
            noise = normal(key(seed, number), torch.arange(size), width)
            yield noise.to(interface.preparation.dtype), None, False
        return
    available = math.ceil(len(split) / BATCH_SIZE)
    count = min(num_batches, available)
    offsets = [place * available // count for place in range(count)]
    for place, offset in enumerate(offsets):
        batch = next(split.batches(BATCH_SIZE, offset=offset))
        if place == 0:
            yield batch.inputs[:1], batch.targets[:1], True
        yield batch.inputs, batch.targets, False
    last, repeated = next(split.batches(BATCH_SIZE, offset=available - 1)), available - 1 in offsets
    if len(last) == BATCH_SIZE:
        last = next(last.split(BATCH_SIZE - 1))
    elif repeated:
        return
    yield last.inputs, last.targets, repeated


def compare(run: Callable[[Tensor], Tensor], found: Sequence[Reference]) -> Comparison:
    """Runs a file on what the model has seen.

    Raises:
        RunError: It fails, or gives outputs of another shape.
    """
    largest, scale, same = 0.0, 1.0, []
    right: list[Tensor] = []
    model_right: list[Tensor] = []
    for reference in found:
        given = _given(run, reference)
        difference = (given.double() - reference.expected.double()).abs().max()
        largest = max(largest, math.inf if difference.isnan() else float(difference))
        scale = max(scale, float(reference.expected.abs().max()))
        if reference.repeated or not reference.has_classes:
            continue
        labels, expected = given.argmax(dim=-1), reference.expected.argmax(dim=-1)
        same.append((labels == expected).flatten())
        if reference.targets is not None:
            right.append(labels == reference.targets)
            model_right.append(expected == reference.targets)
    return Comparison(
        samples=sum(len(reference.raw) for reference in found if not reference.repeated),
        batch_sizes=sorted({len(reference.raw) for reference in found}),
        largest_difference=largest / scale,
        same_label=_share(same),
        model_accuracy=_share(model_right),
        accuracy=_share(right),
    )


def _given(run: Callable[[Tensor], Tensor], reference: Reference) -> Tensor:
    size = len(reference.raw)
    try:
        with torch.inference_mode():
            given = run(reference.raw)
    except Exception as error:  # runtimes raise of all kinds
        told = str(error).strip().partition("\n")[0]
        raise RunError(f"the exported file fails on a batch of {size}: {told}") from error
    if given.shape != reference.expected.shape:
        raise RunError(
            f"the exported file gives {tuple(given.shape)} for a batch of {size}, and the model "
            f"{tuple(reference.expected.shape)}"
        )
    return given


def _share(parts: list[Tensor]) -> float | None:
    return torch.cat(parts).double().mean().item() if parts else None
