"""The loop of most tutorials: a data set of PIL pictures, a DataLoader, `.item()` each step."""

from __future__ import annotations

from torch import nn

from bench import data, networks
from bench.work import Clock, Work


def train(work: Work, clock: Clock) -> float:
    """Trains; the accuracy on the test split."""
    clock.watch_torch()
    model, loader = networks.build(work), data.loader(work)
    optimizer = networks.optimizer(model)
    criterion = nn.CrossEntropyLoss()
    for _ in range(work.epochs):
        model.train()
        running_loss = 0.0
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs.to(work.device)), labels.to(work.device))
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        clock.lap()
    return data.accuracy(work, model.eval())
