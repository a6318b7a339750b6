"""The CPU in the GPU's place: to find tests whose own code is stale, on a machine without a GPU.

Chosen by DLTRAIN_GPU_STAND_IN=cpu, and by nothing else: a test never runs on the CPU because there
is no GPU. What it shows is that the bodies of the tests run, and that no step of the loop reads a
value from the device; it says nothing about a GPU.
"""

from __future__ import annotations

import pytest
import torch
from replays import emulate_cuda_graphs as replay_on_cpu
from torch.utils._python_dispatch import TorchDispatchMode

from dltrain.training import device
from dltrain.training.nonfinite import NonFiniteGuard

_aten = torch.ops.aten
READS = {
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.is_nonzero.default,
    _aten.equal.default,
    _aten._unique2.default,
    _aten.repeat_interleave.Tensor,
}
"""Operations for which the host has to wait for a GPU."""


class NoReads(TorchDispatchMode):
    """Raises what torch raises on a GPU where an operation synchronizes."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        by_mask = operation is _aten.index.Tensor and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if operation in READS or by_mask:
            raise RuntimeError(f"called a synchronizing CUDA operation: {operation}")
        return operation(*args, **(kwargs or {}))


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the CPU do what only a GPU does: fp16, graphs, and a loss that is looked at later."""
    watching: list[NoReads] = []

    def set_sync_debug_mode(mode: str) -> None:
        if mode == "error":
            watching.append(NoReads())
            watching[-1].__enter__()
        elif watching:
            watching.pop().__exit__(None, None, None)

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
        # Torch's own looks at the values of a CPU's tensor, and leaves that out on a GPU.
        rows = classes.new_zeros(*classes.shape, num_classes)
        return rows.scatter_(-1, classes.unsqueeze(-1), 1)

    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)
    replay_on_cpu(monkeypatch)
    guarded = NonFiniteGuard.__init__

    def asks_only_to_skip(guard, where, on_nonfinite, *arguments, **options):
        guarded(guard, where, on_nonfinite, *arguments, **options)
        guard.asks_each_step = on_nonfinite == "skip"

    monkeypatch.setattr(NonFiniteGuard, "__init__", asks_only_to_skip)
    monkeypatch.setattr("dltrain.build.resolve_precision", resolve_precision)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_sync_debug_mode)
