"""Lightning, without its progress bar, logger and checkpoints."""

from __future__ import annotations

import logging

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import data, networks
from bench.work import Clock, Work


class Module(lightning.LightningModule):
    """A network and how it is trained."""

    def __init__(self, model: nn.Module, clock: Clock) -> None:
        super().__init__()
        self.model, self.clock = model, clock

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """The loss of a batch."""
        inputs, labels = batch
        return F.cross_entropy(self.model(inputs), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Everyone's."""
        return networks.optimizer(self)

    def on_train_epoch_end(self) -> None:
        """Lightning's name for the end of an epoch."""
        self.clock.lap()


def train(work: Work, clock: Clock) -> float:
    """Trains; the accuracy on the test split."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    clock.watch_torch()
    trainer = lightning.Trainer(
        accelerator="gpu" if work.device == "cuda" else "cpu",
        devices=1,
        max_epochs=work.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = networks.build(work)
    trainer.fit(Module(model, clock), data.loader(work))
    return data.accuracy(work, model.to(work.device).eval())
