"""Emulation of CUDA graphs on the CPU: operations are recorded and replayed without Python."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dltrain.training import cuda_graph
from dltrain.training.nonfinite import NonFiniteGuard


class RecordedOperations(TorchDispatchMode):
    """Record each operation with its arguments, and repeat them in `replay`.

    As in a CUDA graph, replays differ only in the contents of memory: each result is written to
    the memory that it had when the operation was recorded. Unlike a CUDA graph, operations also
    run while they are recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        results = operation(*args, **(kwargs or {}))
        if operation is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.done.append((operation, args, kwargs or {}, results))
        return results

    def replay(self) -> None:
        for operation, args, kwargs, results in self.done:
            again = operation(*args, **kwargs)
            for new, old in zip(tree_leaves(again), tree_leaves(results), strict=True):
                # A view or the result of an in-place operation has this memory already.
                if isinstance(old, Tensor) and new.data_ptr() != old.data_ptr():
                    old.copy_(new)


class GraphRecorder:
    """Replacement of `cuda_graph.GraphRecorder` that counts its calls."""

    def __init__(self) -> None:
        self.runs = self.records = self.replays = 0

    def run(self, work: Callable[[], None]) -> str:
        self.runs += 1
        work()
        return ""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self.records += 1
        recording, first = RecordedOperations(), True
        with recording:
            work()

        def replay() -> None:
            nonlocal first
            self.replays += 1
            if not first:  # the operations ran while they were recorded
                with torch.no_grad():
                    recording.replay()
            first = False

        return replay


def emulate_cuda_graphs(monkeypatch, record: bool = True) -> list[GraphRecorder]:
    """Capture steps on the CPU too; with `record=False`, only run warm-up steps.

    Returns:
        The recorders, which are added as trainers create them.
    """
    recorders = []
    original_blocker, original_init = cuda_graph.cuda_graph_blocker, NonFiniteGuard.__init__

    def cuda_graph_blocker(settings, precision, task, split, device, process_group):
        cuda = torch.device("cuda")
        return original_blocker(settings, precision, task, split, cuda, process_group)

    def recorder(device):
        recorders.append(GraphRecorder())
        return recorders[-1]

    def init_as_on_gpu(guard, *arguments, **options):
        original_init(guard, *arguments, **options)
        guard.asks_each_step = False

    for module in ("trainer", "validation"):
        monkeypatch.setattr(f"dltrain.training.{module}.cuda_graph_blocker", cuda_graph_blocker)
    monkeypatch.setattr(cuda_graph, "GraphRecorder", recorder)
    monkeypatch.setattr(NonFiniteGuard, "__init__", init_as_on_gpu)
    if not record:
        monkeypatch.setattr(cuda_graph, "WARM_UP_STEPS", math.inf)
    return recorders
