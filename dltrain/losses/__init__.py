"""Losses; importing this package registers all of them."""

from dltrain.losses import adversarial, supervised

__all__ = ["adversarial", "supervised"]
