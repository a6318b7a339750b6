"""Metrics: sums over samples, kept on the device and read once, in `compute`."""

from dltrain.metrics import classification, generation, regression

__all__ = ["classification", "generation", "regression"]
