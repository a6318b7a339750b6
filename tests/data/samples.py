"""IDX files, and the samples of a split."""

import struct

import torch


def idx_bytes(values: torch.Tensor) -> bytes:
    """Return a uint8 tensor as an IDX file."""
    head = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.numpy().tobytes()


def gather(split, batch_size=16, **position):
    """Return inputs, targets and index of all batches, each as one tensor."""
    batches = list(split.batches(batch_size, **position))
    return tuple(
        torch.cat([getattr(b, n) for b in batches]) for n in ("inputs", "targets", "index")
    )
