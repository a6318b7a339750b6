"""Quotients that may be undefined, and the dtype of long sums."""

import torch

NAN = float("nan")


def ratio(above: float, below: float) -> float:
    """A quotient; NaN where there is nothing to divide by."""
    return above / below if below else NAN


def widest_float(device: torch.device) -> torch.dtype:
    """The widest floating type of a device, for long sums; Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
