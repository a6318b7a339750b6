"""A stand-in for CUDA graphs on the CPU: operations are recorded, and repeated without Python."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dltrain.training import cuda_graph
from dltrain.training.nonfinite import NonFiniteGuard


class Replayed(TorchDispatchMode):
    """Remembers each operation with the tensors that it was given; `replay` does them again.

    As in a CUDA graph, nothing but the contents of memory differs from one time to the next: each
    result is written where it was when the operation was recorded. Unlike there, operations are
    carried out while they are recorded.
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
                # A view, or what was changed in place, is in its place already.
                if isinstance(old, Tensor) and new.data_ptr() != old.data_ptr():
                    old.copy_(new)


class GraphRecorder:
    """See `cuda_graph.GraphRecorder`; counts what it was asked for."""

    def __init__(self) -> None:
        self.runs = self.records = self.replays = 0

    def run(self, work: Callable[[], None]) -> str:
        self.runs += 1
        work()
        return ""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self.records += 1
        recording, first = Replayed(), True
        with recording:
            work()

        def replay() -> None:
            nonlocal first
            self.replays += 1
            if not first:  # it was carried out as it was recorded
                with torch.no_grad():
                    recording.replay()
            first = False

        return replay


def stand_in(monkeypatch, record: bool = True) -> list[GraphRecorder]:
    """Steps are recorded on the CPU too, or only ever run as those before a recording.

    Returns:
        The recorders that were made.
    """
    made = []
    possible, guarded = cuda_graph.cuda_graph_blocker, NonFiniteGuard.__init__

    def cuda_graph_blocker(settings, precision, task, split, device, process_group):
        return possible(settings, precision, task, split, torch.device("cuda"), process_group)

    def recorder(device):
        made.append(GraphRecorder())
        return made[-1]

    def remembers(guard, *arguments, **options):
        guarded(guard, *arguments, **options)
        guard.asks_each_step = False  # as on a GPU

    for module in ("trainer", "validation"):
        monkeypatch.setattr(f"dltrain.training.{module}.cuda_graph_blocker", cuda_graph_blocker)
    monkeypatch.setattr(cuda_graph, "GraphRecorder", recorder)
    monkeypatch.setattr(NonFiniteGuard, "__init__", remembers)
    if not record:
        monkeypatch.setattr(cuda_graph, "WARM_UP", math.inf)
    return made
