"""Process group of the ranks that torchrun starts, with torch.distributed."""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
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

from dltrain.core.batch import Batch, RankSlice
from dltrain.core.errors import DltrainError, InterruptedRunError, RunError
from dltrain.core.protocols import ProcessGroup

_FIRST_ERROR = "first_error"
_LAUNCHES = "dltrain/meetings"
_ARRIVED = "arrived"
_NUM_READ = "heard"
_REPORT_SECONDS = 10.0
"""Seconds that a rank that can't start waits until the others have read the reason."""


class TorchProcessGroup(ProcessGroup):
    """Collective operations of several ranks through torch.distributed.

    Args:
        store: Store of the launcher, which exists as long as any rank.
        timeout: Seconds that torch waits for another rank.
    """

    def __init__(self, store: Store, timeout: float) -> None:
        self.rank_slice: RankSlice = RankSlice(dist.get_rank(), dist.get_world_size())
        self.local_rank: int = int(os.environ["LOCAL_RANK"])
        self._store, self._timeout = store, timeout

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """See `ProcessGroup.all_reduce_sum`."""
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def all_reduce_max(self, number: int) -> int:
        """See `ProcessGroup.all_reduce_max`."""
        found = torch.tensor(number)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def all_gather(self, batch: Batch, *tensors: Tensor) -> tuple[Tensor, ...]:
        """See `ProcessGroup.all_gather`."""
        own = [tensor if batch.is_real else tensor[:0] for tensor in tensors]
        rows = torch.tensor([len(tensor) for tensor in own])
        every = [torch.empty_like(rows) for _ in range(self.world_size)]
        dist.all_gather(every, rows)
        whole = []
        for tensor, lengths in zip(own, torch.stack(every, dim=1).tolist(), strict=True):
            padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
            padded[: len(tensor)] = tensor
            parts = [torch.empty_like(padded) for _ in lengths]
            dist.all_gather(parts, padded)
            whole.append(torch.cat([p[:n] for p, n in zip(parts, lengths, strict=True)]))
        return tuple(whole)

    def all_gather_object(self, value: Any) -> list[Any]:
        """See `ProcessGroup.all_gather_object`."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast_object(self, make: Callable[[], Any]) -> Any:
        """See `ProcessGroup.broadcast_object`."""
        values = [make() if self.is_main else None]
        dist.broadcast_object_list(values)
        return values[0]

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See `ProcessGroup.broadcast_tensors`; on the CPU."""
        kinds = self.broadcast_object(
            lambda: [(name, t.shape, t.dtype) for name, t in tensors.items()]
        )
        received = {n: torch.empty(shape, dtype=dtype) for n, shape, dtype in kinds}
        received = tensors if self.is_main else received
        for tensor in received.values():
            if tensor.numel():
                dist.broadcast(tensor.view(-1).view(torch.uint8), 0)
        return received

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """See `ProcessGroup.broadcast_`."""
        with torch.no_grad():
            for tensor in tensors:
                value = tensor.contiguous()
                dist.broadcast(value, 0)
                tensor.copy_(value)

    @contextmanager
    def local_rank_zero_first(self) -> Iterator[None]:
        """See `ProcessGroup.local_rank_zero_first`."""
        if self.local_rank > 0:
            self.all_reduce_max(0)
        yield
        if self.local_rank == 0:
            self.all_reduce_max(0)

    def is_peer_failure(self, error: Exception) -> bool:
        """See `ProcessGroup.is_peer_failure`; torch has no exception class for errors of gloo."""
        message = str(error).lower()
        words = ("gloo", "nccl", "connection", "socket")
        return isinstance(error, DistError) or (
            isinstance(error, RuntimeError) and any(word in message for word in words)
        )

    def root_cause(self, error: Exception) -> Exception:
        """See `ProcessGroup.root_cause`.

        The first rank that fails writes its error to the launcher's store. The others notice by a
        broken connection or a timeout, and read it there.
        """
        if isinstance(error, InterruptedRunError | PeerFailureError):
            return error
        if self.is_peer_failure(error):
            # The record already exists, and the store may end with the launcher of that rank.
            message = f"another rank has ended, or did not respond for {self._timeout:g} s"
            error = RunError(message).with_traceback(error.__traceback__)
        elif not self.is_main:
            time.sleep(0.5)  # if all ranks raise the same error, rank 0 reports it
        own = _error_record(self.rank_slice.rank, error)
        try:
            with output_suppressed(2):  # torch prints a stack if the launcher has ended
                first = self._store.compare_set(_FIRST_ERROR, "", own).decode()
        except RuntimeError:
            first = own
        is_own = int(first.partition(" ")[0]) == self.rank_slice.rank
        return error if is_own else PeerFailureError(first, self.world_size)


def _error_record(rank: int, error: Exception) -> str:
    """Return the record of an error for the other ranks; see `PeerFailureError`."""
    code = getattr(error, "exit_code", RunError.exit_code)
    machine = os.environ["GROUP_RANK"]
    return f"{rank} {machine} {code} {str(error) or type(error).__name__}"


class PeerFailureError(RunError):
    """Another rank has failed.

    Attributes:
        reported: Whether another process of this machine shows the error.

    Args:
        record: Result of `_error_record`.
        world_size: Number of ranks.
    """

    def __init__(self, record: str, world_size: int) -> None:
        rank, machine, code, text = record.split(" ", 3)
        super().__init__(f"process {rank} of {world_size} failed: {text}")
        self.exit_code: int = int(code)
        self.reported: bool = machine == os.environ["GROUP_RANK"] or os.environ["LOCAL_RANK"] != "0"


@contextmanager
def join_process_group(timeout: float) -> Iterator[ProcessGroup]:
    """Join the process group of the ranks that torchrun has started.

    An error inside the context is raised on the rank where it occurred first, and on one rank of
    each other machine. All other ranks exit silently with the same exit code.

    Args:
        timeout: Seconds to wait for another rank, now and in later operations.

    Raises:
        RunError: Another rank did not join, or failed before; see `report_absence`.
    """
    if _is_alone():
        yield ProcessGroup()
        return
    wait = timedelta(seconds=timeout)
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    try:
        launcher, store, rank, size = _rendezvous(wait)
        _require_all(store, rank, size)
        # Standard output is for results, and gloo of torch 2.9 prints to it when ranks connect.
        with output_suppressed(1):
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
        if rank == 0:
            launcher.add(_LAUNCHES, 1)  # all have joined, so none reads the old number any more
    except PeerFailureError as error:
        if error.reported:
            raise SystemExit(error.exit_code) from error
        raise
    except RuntimeError as error:  # the class of torch's errors
        reason = str(error).partition("\n")[0]
        raise RunError(
            f"process {os.environ['RANK']} has not met all {os.environ['WORLD_SIZE']} processes in "
            f"{timeout:g} s; see the output of the processes on the other machines ({reason})"
        ) from error
    process_group = TorchProcessGroup(store, timeout)
    try:
        yield process_group
    except Exception as error:
        with _sigterm_ignored():
            failure = process_group.root_cause(error)
        if isinstance(failure, PeerFailureError | InterruptedRunError):
            is_peer_failure = isinstance(failure, PeerFailureError)
            if failure.reported if is_peer_failure else rank > 0:
                raise SystemExit(failure.exit_code) from error
        raise failure from error
    dist.destroy_process_group()


def report_absence(error: DltrainError) -> None:
    """Report to the other ranks, if there are any, why this one can't start.

    Without a report they would wait until the timeout. If all ranks of a machine have the same
    error, local rank 0 shows it.

    Raises:
        SystemExit: Another process of this machine shows the same error.
    """
    if _is_alone():
        return
    try:
        with output_suppressed(2):
            _, store, rank, size = _rendezvous(timedelta(seconds=_REPORT_SECONDS))
            first = rank - int(os.environ["LOCAL_RANK"])
            store.set(f"{_ARRIVED}/{rank}", _error_record(rank, error))
            first_record = store.get(f"{_ARRIVED}/{first}").decode()
            deadline = time.monotonic() + _REPORT_SECONDS
            num_read = store.add(_NUM_READ, 1)
            while num_read < size and time.monotonic() < deadline:
                time.sleep(0.05)
                num_read = store.add(_NUM_READ, 0)
            if num_read >= size:  # restarted ranks write their own records
                store.delete_key(f"{_ARRIVED}/{rank}")
                store.delete_key(_NUM_READ)
    except RuntimeError:  # no other rank is running
        return
    if first != rank and first_record.endswith(f" {error}"):
        raise SystemExit(error.exit_code) from error


def _is_alone() -> bool:
    return not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1


def _rendezvous(wait: timedelta) -> tuple[Store, Store, int, int]:
    """Return the launcher's store, a part of it for this launch, the rank, and the world size.

    Restarted ranks may find entries of the previous launch in the launcher's store.
    """
    launcher, rank, size = next(rendezvous("env://", timeout=wait))
    return launcher, PrefixStore(f"dltrain/{launcher.add(_LAUNCHES, 0)}", launcher), rank, size


def _require_all(store: Store, rank: int, size: int) -> None:
    """Wait for all ranks, or for the error of one that can't start."""
    store.set(f"{_ARRIVED}/{rank}", "")
    records = [store.get(f"{_ARRIVED}/{other}").decode() for other in range(size)]
    store.add(_NUM_READ, 1)
    if record := next(filter(None, records), ""):
        raise PeerFailureError(record, size)


@contextmanager
def _sigterm_ignored() -> Iterator[None]:
    """Ignore SIGTERM, so that a rank can report its error.

    A launcher sends it when a rank of its own machine has failed, and with the c10d rendezvous also
    when the launcher of another machine, which holds the store, has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def output_suppressed(descriptor: int) -> Iterator[None]:
    """Discard output of native code to standard output (descriptor 1) or standard error (2)."""
    (sys.stdout if descriptor == 1 else sys.stderr).flush()
    saved, null = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, descriptor)
        yield
    finally:
        os.dup2(saved, descriptor)
        os.close(null)
        os.close(saved)


def launch() -> dict[str, Any] | None:
    """Return an identification of this launch of torchrun, JSON-serializable; None without one.

    `id` is the value of `--rdzv-id`; `launcher` is the host, process id and start time of the
    launcher on this machine.
    """
    if not dist.is_torchelastic_launched():
        return None
    parent = os.getppid()
    try:
        # Field 22 is the start time in ticks since boot; field 2 may contain spaces: proc(5).
        start = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        start = ""
    named = os.environ["TORCHELASTIC_RUN_ID"]
    return {
        "id": None if named == "none" else named,
        "launcher": [platform.node(), parent, start],
    }


def restarts() -> int:
    """Return how often the launcher has restarted this process."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
