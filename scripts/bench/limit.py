"""A loop as one writes it by hand, over tensors on the device."""

from __future__ import annotations

from torch.nn import functional as F

from bench import data, networks
from bench.work import Clock, Work


def train(work: Work, clock: Clock) -> float:
    """Trains; the accuracy on the test split."""
    clock.watch_torch()
    model, batches = networks.build(work), data.by_hand(work)
    optimizer = networks.optimizer(model)
    for _ in range(work.epochs):
        for inputs, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        clock.lap()
    return data.accuracy(work, model.eval())
