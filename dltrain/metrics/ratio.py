"""Undefined ratios, and the dtype of long sums."""

import torch

NAN = float("nan")


def ratio(numerator: float, denominator: float) -> float:
    """Return the ratio of two numbers; NaN where the denominator is 0."""
    return numerator / denominator if denominator else NAN


def widest_float(device: torch.device) -> torch.dtype:
    """Return the widest floating dtype of a device, for long sums; MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
