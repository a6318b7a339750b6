"""The loop of most tutorials: a data set of PIL images, a DataLoader, `.item()` in each step."""

from __future__ import annotations

from torch import nn

from bench import data, networks
from bench.workloads import Timer, Workload


def train(workload: Workload, timer: Timer) -> float:
    """Train the network and return the accuracy on the test split."""
    timer.hook_optimizers()
    model, loader = networks.build(workload), data.loader(workload)
    optimizer = networks.optimizer(model)
    criterion = nn.CrossEntropyLoss()
    for _ in range(workload.epochs):
        model.train()
        running_loss = 0.0
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs.to(workload.device)), labels.to(workload.device))
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        timer.end_epoch()
    return data.accuracy(workload, model.eval())
