"""Helpers of the GPU tests for a trainer."""

import torch
from gpu_config import DEVICE


def is_on_gpu(tensor: torch.Tensor) -> bool:
    """Whether a tensor is on the GPU, or on the CPU that replaces it."""
    return tensor.device.type == DEVICE


def weights(trainer) -> torch.Tensor:
    """Return all weights as one vector, float64 on the CPU."""
    return torch.cat([p.detach().flatten().double().cpu() for p in trainer.task.model.parameters()])


def train_steps(trainer, steps: int) -> None:
    """Run the first steps of an epoch and wait for their results."""
    batches = trainer.data.train.batches(64, epoch=0)
    for _ in range(steps):
        trainer.train_step(next(batches))
    trainer.drain()


def save_and_load(trainer):
    """Save a checkpoint and return its snapshot as loaded from disk."""
    trainer.save()
    trainer.checkpoint_manager.wait()
    return trainer.checkpoint_manager.store.newest()[1]
