"""Ignite without handlers; the loss is not read after each step."""

from __future__ import annotations

from ignite.engine import Events, create_supervised_trainer
from torch import nn

from bench import data, networks
from bench.workloads import Timer, Workload


def train(workload: Workload, timer: Timer) -> float:
    """Train the network and return the accuracy on the test split."""
    timer.hook_optimizers()
    model = networks.build(workload)
    trainer = create_supervised_trainer(
        model,
        networks.optimizer(model),
        nn.CrossEntropyLoss(),
        device=workload.device,
        output_transform=lambda inputs, labels, outputs, loss: None,
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, timer.end_epoch)
    trainer.run(data.loader(workload), max_epochs=workload.epochs)
    return data.accuracy(workload, model.eval())
