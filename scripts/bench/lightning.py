"""Lightning without its progress bar, logger and checkpoints."""

from __future__ import annotations

import logging

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import data, networks
from bench.workloads import Timer, Workload


class Module(lightning.LightningModule):
    """LightningModule of a classifier."""

    def __init__(self, model: nn.Module, timer: Timer) -> None:
        super().__init__()
        self.model, self.timer = model, timer

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Return the loss of a batch."""
        inputs, labels = batch
        return F.cross_entropy(self.model(inputs), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer that all frameworks share."""
        return networks.optimizer(self)

    def on_train_epoch_end(self) -> None:
        """End the epoch of the timer."""
        self.timer.end_epoch()


def train(workload: Workload, timer: Timer) -> float:
    """Train the network and return the accuracy on the test split."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    timer.hook_optimizers()
    trainer = lightning.Trainer(
        accelerator="gpu" if workload.device == "cuda" else "cpu",
        devices=1,
        max_epochs=workload.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = networks.build(workload)
    trainer.fit(Module(model, timer), data.loader(workload))
    return data.accuracy(workload, model.to(workload.device).eval())
