"""skorch without its validation split and its printed log."""

from __future__ import annotations

import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback
from torch import nn

from bench import data, mnist, networks
from bench.workloads import Timer, Workload


class EpochTimer(Callback):
    """Callback that ends the epoch of a timer."""

    def __init__(self, timer: Timer) -> None:
        self.timer = timer

    def on_epoch_end(self, net: NeuralNetClassifier, **_: object) -> None:
        """End the epoch."""
        self.timer.end_epoch()


def train(workload: Workload, timer: Timer) -> float:
    """Train the network and return the accuracy on the test split."""
    timer.hook_optimizers()
    net = NeuralNetClassifier(
        networks.build(workload),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        lr=networks.LEARNING_RATE,
        batch_size=workload.batch_size,
        max_epochs=workload.epochs,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[("benchmark", EpochTimer(timer))],
        callbacks__print_log=None,
        device=workload.device,
    )
    if workload.pipeline == "tensors":
        net.fit(*mnist.tensors(workload.root, train=True))
    else:
        net.fit(mnist.dataset(workload.root, train=True), y=None)
    return data.accuracy(workload, net.module_.eval())
