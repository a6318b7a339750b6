"""Batches for the networks, from the one pipeline and from the other; and the accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from bench import pictures, sentences
from bench.work import Work

Batches = Iterable[tuple[Tensor, Tensor]]


def by_hand(work: Work) -> Batches:
    """Batches gathered from tensors on the device: what is hard to beat."""
    if work.config == "sst2_lstm":
        train = sentences.read(work.root).train
        return sentences.Buckets(train, work.batch_size, work.device)
    images, labels = pictures.tensors(work.root, train=True)
    return pictures.Gathered(images.to(work.device), labels.to(work.device), work.batch_size)


def loader(work: Work) -> Batches:
    """What a framework takes that wants an iterable of batches."""
    if work.config == "sst2_lstm" and work.pipeline == "tensors":
        return by_hand(work)
    collate = None
    if work.config == "sst2_lstm":
        dataset, collate = sentences.read(work.root).train, sentences.padded
    elif work.pipeline == "tensors":
        dataset = TensorDataset(*pictures.tensors(work.root, train=True))
    else:
        dataset = pictures.dataset(work.root, train=True)
    return DataLoader(dataset, work.batch_size, shuffle=True, collate_fn=collate)


def accuracy(work: Work, predict: Callable[[Tensor], Tensor]) -> float:
    """Share of the test split that is right.

    Args:
        work: Which network.
        predict: Inputs to (batch, classes), in evaluation mode.
    """
    right = total = 0
    with torch.inference_mode():
        for inputs, labels in _test_batches(work):
            found = predict(inputs.to(work.device)).argmax(dim=1)
            right += int((found == labels.to(work.device)).sum())
            total += len(labels)
    return right / total


def _test_batches(work: Work, size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
    if work.config == "sst2_lstm":
        test = sentences.read(work.root).test
        for start in range(0, len(test), size):
            yield sentences.padded(test[start : start + size])
        return
    images, labels = pictures.tensors(work.root, train=False)
    yield from zip(images.split(size), labels.split(size), strict=True)
