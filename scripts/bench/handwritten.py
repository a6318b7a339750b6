"""A hand-written training loop over tensors on the device."""

from __future__ import annotations

from torch.nn import functional as F

from bench import data, networks
from bench.workloads import Timer, Workload


def train(workload: Workload, timer: Timer) -> float:
    """Train the network and return the accuracy on the test split."""
    timer.hook_optimizers()
    model, batches = networks.build(workload), data.tensor_batches(workload)
    optimizer = networks.optimizer(model)
    for _ in range(workload.epochs):
        for inputs, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        timer.end_epoch()
    return data.accuracy(workload, model.eval())
