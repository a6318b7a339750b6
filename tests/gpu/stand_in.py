"""Emulation of a GPU on the CPU, to find outdated GPU tests on a machine without a GPU.

It is enabled only by DLTRAIN_GPU_STAND_IN=cpu: without this variable a missing GPU never makes a
test run on the CPU. It checks that the code of the tests works and that no step of the loop reads a
value from the device; it proves nothing about a GPU.
"""

from __future__ import annotations

import pytest
import torch
from replays import emulate_cuda_graphs
from torch.utils._python_dispatch import TorchDispatchMode

from dltrain.training import device
from dltrain.training.nonfinite import NonFiniteGuard

_aten = torch.ops.aten
SYNCHRONIZING = {
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.is_nonzero.default,
    _aten.equal.default,
    _aten._unique2.default,
    _aten.repeat_interleave.Tensor,
}
"""Operations for which the host waits for a GPU."""


class ForbidSynchronization(TorchDispatchMode):
    """Raises the error that torch raises on a GPU if an operation synchronizes."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        by_mask = operation is _aten.index.Tensor and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if operation in SYNCHRONIZING or by_mask:
            raise RuntimeError(f"called a synchronizing CUDA operation: {operation}")
        return operation(*args, **(kwargs or {}))


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulate features of a GPU: fp16, CUDA graphs and deferred non-finite checks."""
    modes: list[ForbidSynchronization] = []

    def set_sync_debug_mode(mode: str) -> None:
        if mode == "error":
            modes.append(ForbidSynchronization())
            modes[-1].__enter__()
        elif modes:
            modes.pop().__exit__(None, None, None)

    resolve = device.resolve_precision

    def resolve_precision(name: str, where: torch.device) -> device.Precision:
        if name != "fp16":
            return resolve(name, where)
        return device.Precision(
            name="fp16",
            dtype=torch.float32,
            autocast=lambda: torch.autocast("cpu", dtype=torch.float16),
            scaler=torch.amp.GradScaler("cpu"),
        )

    def one_hot(classes: torch.Tensor, num_classes: int) -> torch.Tensor:
        # torch's implementation checks the values of a tensor on the CPU, but not on a GPU.
        zeros = classes.new_zeros(*classes.shape, num_classes)
        return zeros.scatter_(-1, classes.unsqueeze(-1), 1)

    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)
    emulate_cuda_graphs(monkeypatch)
    original_init = NonFiniteGuard.__init__

    def init_as_on_gpu(guard, where, on_nonfinite, *arguments, **options):
        original_init(guard, where, on_nonfinite, *arguments, **options)
        guard.asks_each_step = on_nonfinite == "skip"

    monkeypatch.setattr(NonFiniteGuard, "__init__", init_as_on_gpu)
    monkeypatch.setattr("dltrain.build.resolve_precision", resolve_precision)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_sync_debug_mode)
