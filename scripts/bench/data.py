"""Training batches of both input pipelines, and the accuracy on the test split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from bench import mnist, sst2
from bench.workloads import Workload

Batches = Iterable[tuple[Tensor, Tensor]]


def tensor_batches(workload: Workload) -> Batches:
    """Return batches gathered from tensors on the device, the fastest simple pipeline."""
    if workload.config == "sst2_lstm":
        train = sst2.read(workload.root).train
        return sst2.LengthBuckets(train, workload.batch_size, workload.device)
    images, labels = mnist.tensors(workload.root, train=True)
    return mnist.TensorBatches(
        images.to(workload.device), labels.to(workload.device), workload.batch_size
    )


def loader(workload: Workload) -> Batches:
    """Return a DataLoader, or length-bucketed batches for sentences as tensors."""
    if workload.config == "sst2_lstm" and workload.pipeline == "tensors":
        return tensor_batches(workload)
    collate = None
    if workload.config == "sst2_lstm":
        dataset, collate = sst2.read(workload.root).train, sst2.pad_batch
    elif workload.pipeline == "tensors":
        dataset = TensorDataset(*mnist.tensors(workload.root, train=True))
    else:
        dataset = mnist.dataset(workload.root, train=True)
    return DataLoader(dataset, workload.batch_size, shuffle=True, collate_fn=collate)


def accuracy(workload: Workload, predict: Callable[[Tensor], Tensor]) -> float:
    """Return the accuracy on the test split.

    Args:
        workload: Selects the data and the device.
        predict: Maps inputs to logits of shape (batch, classes), in evaluation mode.
    """
    correct = total = 0
    with torch.inference_mode():
        for inputs, labels in _test_batches(workload):
            predicted = predict(inputs.to(workload.device)).argmax(dim=1)
            correct += int((predicted == labels.to(workload.device)).sum())
            total += len(labels)
    return correct / total


def _test_batches(workload: Workload, size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
    if workload.config == "sst2_lstm":
        test = sst2.read(workload.root).test
        for start in range(0, len(test), size):
            yield sst2.pad_batch(test[start : start + size])
        return
    images, labels = mnist.tensors(workload.root, train=False)
    yield from zip(images.split(size), labels.split(size), strict=True)
