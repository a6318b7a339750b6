"""Embeddings of samples: the inputs of the last linear layer of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from dltrain.core.batch import Batch
from dltrain.core.data_spec import DataSpec, TextInputs
from dltrain.core.protocols import ProcessGroup
from dltrain.core.task import Embedding
from dltrain.data.tokenization import decode
from dltrain.tasks.figures import three_channels, to_pixels

MAX_CHARACTERS = 200
"""Maximum number of characters of a text beside its point."""

MAX_FEATURES = 200
"""TensorBoard's projector uses no more features; it projects wider points randomly."""


def last_linear(model: nn.Module) -> nn.Linear | None:
    """Return the last linear layer, whose inputs are the features; None where there is none."""
    return next((m for m in reversed([*model.modules()]) if isinstance(m, nn.Linear)), None)


def features_and_outputs(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inputs of the last linear layer, (batch, features), and the model's outputs.

    The outputs are the features where no linear layer is called, or not with one row per sample.
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
    labels: Callable[[Tensor, Tensor], dict[str, str]],
) -> Embedding:
    """Return the embedding of samples of a split.

    Args:
        spec: The spec of the data.
        process_group: The ranks that read the split.
        batches: Batches of the split; no more are read than needed.
        num_samples: Maximum number of samples.
        points_and_predictions: Returns (batch, features), and (batch, ...) for `labels`.
        labels: Returns the labels of one sample from its prediction and its target.
    """
    parts: list[Sequence[Tensor]] = []
    count = 0
    for batch in batches:
        points, predictions = points_and_predictions(batch)
        # Lengths of texts differ between batches, so each batch is gathered and decoded separately.
        columns = (points, predictions, batch.targets, batch.inputs, batch.index)
        gathered = process_group.all_gather(batch, *columns)
        parts.append([part[: num_samples - count].cpu() for part in gathered])
        count += len(parts[-1][0])
        if count >= num_samples:
            break
    rows = []
    for _, *columns in parts:
        for prediction, target, sample, number in zip(*columns, strict=True):
            row = labels(prediction, target)
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
    """Return points with at most `MAX_FEATURES` features: principal components of wider ones.

    Args:
        points: (samples, features) float32.
    """
    if points.shape[1] <= MAX_FEATURES:
        return points
    with torch.random.fork_rng(devices=[]):  # for the same components every time
        torch.manual_seed(0)
        _, _, axes = torch.pca_lowrank(points, q=min(MAX_FEATURES, len(points)))
    return (points - points.mean(dim=0)) @ axes


def _text(inputs: TextInputs, tokens: Tensor) -> str:
    return " ".join(decode(inputs, tokens.tolist()).split())[:MAX_CHARACTERS]
