"""What the GPU tests do with a trainer."""

import torch
from gpu_config import DEVICE


def is_on_gpu(tensor: torch.Tensor) -> bool:
    """Whether it lies on the device that the tests are for."""
    return tensor.device.type == DEVICE


def weights(trainer) -> torch.Tensor:
    """All weights in one row, in float64 on the CPU."""
    return torch.cat([p.detach().flatten().double().cpu() for p in trainer.task.model.parameters()])


def train_steps(trainer, steps: int) -> None:
    """The first steps of an epoch, with whatever the loop does between them."""
    batches = trainer.data.train.batches(64, epoch=0)
    for _ in range(steps):
        trainer.train_step(next(batches))
    trainer.drain()


def saved_snapshot(trainer):
    """Saves a checkpoint, and reads it."""
    trainer.save()
    trainer.checkpoint_manager.wait()
    return trainer.checkpoint_manager.store.newest()[1]
