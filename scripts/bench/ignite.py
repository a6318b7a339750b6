"""Ignite, without handlers of its own; the loss is not asked for after each step."""

from __future__ import annotations

from ignite.engine import Events, create_supervised_trainer
from torch import nn

from bench import data, networks
from bench.work import Clock, Work


def train(work: Work, clock: Clock) -> float:
    """Trains; the accuracy on the test split."""
    clock.watch_torch()
    model = networks.build(work)
    trainer = create_supervised_trainer(
        model,
        networks.optimizer(model),
        nn.CrossEntropyLoss(),
        device=work.device,
        output_transform=lambda inputs, labels, outputs, loss: None,
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, clock.lap)
    trainer.run(data.loader(work), max_epochs=work.epochs)
    return data.accuracy(work, model.eval())
