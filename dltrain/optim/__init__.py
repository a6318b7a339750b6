"""Optimizers and learning-rate schedules."""

from dltrain.optim import optimizers, schedules

__all__ = ["optimizers", "schedules"]
