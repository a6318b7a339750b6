"""Metrics: sums over samples, kept on the device and read once, in `compute`."""

from dltrain.metrics import classification, regression

__all__ = ["classification", "regression"]
