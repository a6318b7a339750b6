"""Losses; importing this package registers them all."""

from dltrain.losses import adversarial, supervised

__all__ = ["adversarial", "supervised"]
