"""Several processes that train one model together, with torch.distributed."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import DistError, PrefixStore, Store  # pyright: ignore
from torch.distributed.rendezvous import rendezvous

from dltrain.errors import RunError, StoppedError
from dltrain.spec import Batch, Share, World

_FIRST_ERROR = "first_error"
_MEETINGS = "dltrain/meetings"


class Processes(World):
    """One of several, each with this object, in a process group of torch.distributed.

    Args:
        store: Of the launcher; there as long as any process is.
        timeout: Seconds that torch waits for another process.
    """

    def __init__(self, store: Store, timeout: float) -> None:
        self.share = Share(dist.get_rank(), dist.get_world_size())
        self.local_rank = int(os.environ["LOCAL_RANK"])
        self._store, self._timeout = store, timeout

    def sum(self, tensor: Tensor) -> Tensor:
        """See `World.sum`."""
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def largest(self, number: int) -> int:
        """See `World.largest`."""
        found = torch.tensor(number)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def gather(self, batch: Batch, *tensors: Tensor) -> tuple[Tensor, ...]:
        """See `World.gather`."""
        own = [tensor if batch.counts else tensor[:0] for tensor in tensors]
        rows = torch.tensor([len(tensor) for tensor in own])
        every = [torch.empty_like(rows) for _ in range(self.size)]
        dist.all_gather(every, rows)
        whole = []
        for tensor, lengths in zip(own, torch.stack(every, dim=1).tolist(), strict=True):
            padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
            padded[: len(tensor)] = tensor
            parts = [torch.empty_like(padded) for _ in lengths]
            dist.all_gather(parts, padded)
            whole.append(torch.cat([p[:n] for p, n in zip(parts, lengths, strict=True)]))
        return tuple(whole)

    def collect(self, value: Any) -> list[Any]:
        """See `World.collect`."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_main(self, make: Callable[[], Any]) -> Any:
        """See `World.from_main`."""
        values = [make() if self.main else None]
        dist.broadcast_object_list(values)
        return values[0]

    def tensors_from_main(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See `World.tensors_from_main`; on the CPU."""
        kinds = self.from_main(lambda: [(name, t.shape, t.dtype) for name, t in tensors.items()])
        received = {n: torch.empty(shape, dtype=dtype) for n, shape, dtype in kinds}
        received = tensors if self.main else received
        for tensor in received.values():
            if tensor.numel():
                dist.broadcast(tensor.view(-1).view(torch.uint8), 0)
        return received

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """See `World.copy_from_main`."""
        with torch.no_grad():
            for tensor in tensors:
                value = tensor.contiguous()
                dist.broadcast(value, 0)
                tensor.copy_(value)

    @contextmanager
    def first_on_machine(self) -> Iterator[None]:
        """See `World.first_on_machine`."""
        if self.local_rank > 0:
            self.largest(0)
        yield
        if self.local_rank == 0:
            self.largest(0)

    def lost(self, error: Exception) -> bool:
        """See `World.lost`; torch has no class of its own for gloo's errors."""
        told = str(error).lower()
        words = ("gloo", "nccl", "connection", "socket")
        return isinstance(error, DistError) or (
            isinstance(error, RuntimeError) and any(word in told for word in words)
        )

    def failure(self, error: Exception) -> Exception:
        """See `World.failure`.

        The first process to fail leaves word with the launcher. The others learn of it by a broken
        connection, or by waiting for too long.
        """
        if isinstance(error, StoppedError | FollowedError):
            return error
        if self.lost(error):
            message = f"another process is gone, or did not answer for {self._timeout:g} s"
            error = RunError(message).with_traceback(error.__traceback__)
        if not self.main:
            time.sleep(0.5)  # of all that make the same mistake, the first one tells it
        own = f"{self.share.rank} {str(error) or type(error).__name__}"
        try:
            first = self._store.compare_set(_FIRST_ERROR, "", own).decode()
        except RuntimeError:  # the launcher has gone
            first = own
        rank, _, text = first.partition(" ")
        if int(rank) == self.share.rank:
            return error
        return FollowedError(f"process {rank} of {self.size} failed: {text}", error)


class FollowedError(RunError):
    """Another process has failed, and told why."""

    def __init__(self, message: str, error: Exception) -> None:
        super().__init__(message)
        self.exit_code = getattr(error, "exit_code", self.exit_code)


@contextmanager
def joined(timeout: float) -> Iterator[World]:
    """Meets the other processes that torchrun has started.

    An error leaves the context in the process alone that met it first. The others end without a
    word, with the same exit code.

    Args:
        timeout: Seconds to wait for another process, now and later.
    """
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield World()
        return
    wait = timedelta(seconds=timeout)
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    launcher, rank, size = next(rendezvous("env://", timeout=wait))
    # Processes that are started again may find the launcher's store as the last ones left it.
    store = PrefixStore(f"dltrain/{launcher.add(_MEETINGS, 0)}", launcher)
    # Standard output is for results: torch 2.9's gloo prints there, below Python, as it meets.
    with silenced(1):
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
    if rank == 0:
        launcher.add(_MEETINGS, 1)  # all have met: none will look at the old number any more
    world = Processes(store, timeout)
    try:
        yield world
    except Exception as error:
        failure = world.failure(error)
        if isinstance(failure, FollowedError) or (isinstance(failure, StoppedError) and rank > 0):
            raise SystemExit(failure.exit_code) from error
        raise failure from error
    dist.destroy_process_group()


@contextmanager
def silenced(descriptor: int) -> Iterator[None]:
    """Drops what code below Python prints to standard output, 1, or standard error, 2."""
    (sys.stdout if descriptor == 1 else sys.stderr).flush()
    kept, nowhere = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, descriptor)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(nowhere)
        os.close(kept)


def launch() -> dict[str, Any] | None:
    """What tells this launch of torchrun from any other, JSON-able; None without one.

    `id` is what `--rdzv-id` gave; `launcher` is the host, the process and the start of the
    launcher beside this process.
    """
    if not dist.is_torchelastic_launched():
        return None
    parent = os.getppid()
    try:
        # The 22nd field is the start, in ticks since boot; the second may have spaces: proc(5).
        start = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        start = ""
    named = os.environ["TORCHELASTIC_RUN_ID"]
    return {
        "id": None if named == "none" else named,
        "launcher": [platform.node(), parent, start],
    }


def restarts() -> int:
    """How often the launcher has started this process again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
