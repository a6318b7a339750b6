"""Samples as points: what a model makes of them before its last layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from dltrain.core.batch import Batch
from dltrain.core.data_spec import DataSpec, TextInputs
from dltrain.core.protocols import ProcessGroup
from dltrain.core.task import Embedding
from dltrain.data.tokenization import text_of
from dltrain.tasks.figures import three_channels, to_pixels

MOST_TEXT = 200
"""Characters of a text that are shown beside its point."""

MOST_FEATURES = 200
"""TensorBoard's projector looks at no more; of wider points it would take a random projection."""


def last_linear(model: nn.Module) -> nn.Linear | None:
    """The last linear layer; what it gets are a model's features. None where there is none."""
    return next((m for m in reversed([*model.modules()]) if isinstance(m, nn.Linear)), None)


def features_and_outputs(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """What the last linear layer gets, (batch, features), and what the model gives for inputs.

    Where no linear layer is called, or where it is called for something else than one row a sample,
    the output itself stands for the features.
    """
    kept: list[Tensor] = []
    layer = last_linear(model)
    hook = layer and layer.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    try:
        outputs = model(inputs)
    finally:
        if hook is not None:
            hook.remove()
    features = kept[-1] if kept and len(kept[-1]) == len(inputs) else outputs
    return features.flatten(1), outputs


def embedding_of(
    spec: DataSpec,
    process_group: ProcessGroup,
    batches: Iterator[Batch],
    num_samples: int,
    points_and_predictions: Callable[[Batch], tuple[Tensor, Tensor]],
    known: Callable[[Tensor, Tensor], dict[str, str]],
) -> Embedding:
    """Samples of a split, as a task sees them.

    Args:
        spec: What the samples are like.
        world: The processes that read them.
        batches: Of samples of the split; no more are read than needed.
        num_samples: At most so many.
        points_and_predictions: (batch, features), and (batch, ...) for `known`.
        known: What is known of one sample, of its prediction and its target.
    """
    parts: list[Sequence[Tensor]] = []
    count = 0
    for batch in batches:
        points, predictions = points_and_predictions(batch)
        # Texts are longer in one batch than in another, so a batch becomes words before the next.
        columns = (points, predictions, batch.targets, batch.inputs, batch.index)
        gathered = process_group.all_gather(batch, *columns)
        parts.append([part[: num_samples - count].cpu() for part in gathered])
        count += len(parts[-1][0])
        if count >= num_samples:
            break
    rows = []
    for _, *columns in parts:
        for prediction, target, sample, number in zip(*columns, strict=True):
            row = known(prediction, target)
            if isinstance(spec.inputs, TextInputs):
                row["text"] = _text(spec.inputs, sample)
            rows.append({**row, "index": str(int(number))})
    return Embedding(
        points=narrowed(torch.cat([points.float() for points, *_ in parts])),
        columns=tuple(rows[0]),
        rows=[tuple(row.values()) for row in rows],
        images=three_channels(torch.cat([to_pixels(spec, inputs) for *_, inputs, _ in parts]))
        if spec.inputs.kind == "image"
        else None,
    )


def narrowed(points: Tensor) -> Tensor:
    """Points of more than `MOST_FEATURES` features as so many principal components.

    Args:
        points: (samples, features) float32.
    """
    if points.shape[1] <= MOST_FEATURES:
        return points
    with torch.random.fork_rng(devices=[]):  # the components are the same every time
        torch.manual_seed(0)
        _, _, axes = torch.pca_lowrank(points, q=min(MOST_FEATURES, len(points)))
    return (points - points.mean(dim=0)) @ axes


def _text(inputs: TextInputs, tokens: Tensor) -> str:
    return " ".join(text_of(inputs, tokens.tolist()).split())[:MOST_TEXT]
