"""skorch, without its validation split and its printed log."""

from __future__ import annotations

import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback
from torch import nn

from bench import data, networks, pictures
from bench.work import Clock, Work


class Laps(Callback):
    """Tells the clock of each epoch."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_epoch_end(self, net: NeuralNetClassifier, **_: object) -> None:
        """skorch's name for it."""
        self.clock.lap()


def train(work: Work, clock: Clock) -> float:
    """Trains; the accuracy on the test split."""
    clock.watch_torch()
    net = NeuralNetClassifier(
        networks.build(work),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        lr=networks.LEARNING_RATE,
        batch_size=work.batch_size,
        max_epochs=work.epochs,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[("laps", Laps(clock))],
        callbacks__print_log=None,
        device=work.device,
    )
    if work.pipeline == "tensors":
        net.fit(*pictures.tensors(work.root, train=True))
    else:
        net.fit(pictures.dataset(work.root, train=True), y=None)
    return data.accuracy(work, net.module_.eval())
