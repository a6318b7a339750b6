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

from dltrain.core.batch import Batch, RankSlice
from dltrain.core.errors import DltrainError, InterruptedRunError, RunError
from dltrain.core.protocols import ProcessGroup

_FIRST_ERROR = "first_error"
_MEETINGS = "dltrain/meetings"
_ARRIVED = "arrived"
_HEARD = "heard"
_HEARING_SECONDS = 10.0
"""How long a process that can't start waits for the others to read why."""


class TorchProcessGroup(ProcessGroup):
    """One of several, each with this object, in a process group of torch.distributed.

    Args:
        store: Of the launcher; there as long as any process is.
        timeout: Seconds that torch waits for another process.
    """

    def __init__(self, store: Store, timeout: float) -> None:
        self.rank_slice: RankSlice = RankSlice(dist.get_rank(), dist.get_world_size())
        self.local_rank: int = int(os.environ["LOCAL_RANK"])
        self._store, self._timeout = store, timeout

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """See `ProcessGroup.sum`."""
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def all_reduce_max(self, number: int) -> int:
        """See `ProcessGroup.largest`."""
        found = torch.tensor(number)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def all_gather(self, batch: Batch, *tensors: Tensor) -> tuple[Tensor, ...]:
        """See `ProcessGroup.gather`."""
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
        """See `ProcessGroup.collect`."""
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
        """See `ProcessGroup.lost`; torch has no class of its own for gloo's errors."""
        told = str(error).lower()
        words = ("gloo", "nccl", "connection", "socket")
        return isinstance(error, DistError) or (
            isinstance(error, RuntimeError) and any(word in told for word in words)
        )

    def root_cause(self, error: Exception) -> Exception:
        """See `ProcessGroup.failure`.

        The first process to fail leaves word with the launcher. The others learn of it by a broken
        connection, or by waiting for too long.
        """
        if isinstance(error, InterruptedRunError | PeerFailureError):
            return error
        if self.is_peer_failure(error):
            message = f"another process is gone, or did not answer for {self._timeout:g} s"
            error = RunError(message).with_traceback(error.__traceback__)
        if not self.is_main:
            time.sleep(0.5)  # of all that make the same mistake, the first one tells it
        own = _word(self.rank_slice.rank, error)
        try:
            with output_suppressed(2):  # the launcher may have gone, of which torch prints a stack
                first = self._store.compare_set(_FIRST_ERROR, "", own).decode()
        except RuntimeError:
            first = own
        is_own = int(first.partition(" ")[0]) == self.rank_slice.rank
        return error if is_own else PeerFailureError(first, self.world_size)


def _word(rank: int, error: Exception) -> str:
    """What a process tells the others of its error; see `FollowedError`."""
    code = getattr(error, "exit_code", RunError.exit_code)
    machine = os.environ["GROUP_RANK"]
    return f"{rank} {machine} {code} {str(error) or type(error).__name__}"


class PeerFailureError(RunError):
    """Another process has failed, and told why.

    Attributes:
        told: Whether a process of this machine shows it.

    Args:
        word: See `_word`.
        size: How many processes there are.
    """

    def __init__(self, word: str, size: int) -> None:
        rank, machine, code, text = word.split(" ", 3)
        super().__init__(f"process {rank} of {size} failed: {text}")
        self.exit_code: int = int(code)
        self.told: bool = machine == os.environ["GROUP_RANK"] or os.environ["LOCAL_RANK"] != "0"


@contextmanager
def join_process_group(timeout: float) -> Iterator[ProcessGroup]:
    """Meets the other processes that torchrun has started.

    An error leaves the context in the process alone that met it first, and in one of each other
    machine. The others end without a word, with the same exit code.

    Args:
        timeout: Seconds to wait for another process, now and later.

    Raises:
        RunError: Another process did not come, or has failed before; see `stay_away`.
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
        launcher, store, rank, size = _meeting(wait)
        _require_all(store, rank, size)
        # Standard output is for results: torch 2.9's gloo prints there, below Python, as it meets.
        with output_suppressed(1):
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
        if rank == 0:
            launcher.add(_MEETINGS, 1)  # all have met: none will look at the old number any more
    except PeerFailureError as error:
        if error.told:
            raise SystemExit(error.exit_code) from error
        raise
    except RuntimeError as error:  # torch's own are of this class
        told = str(error).partition("\n")[0]
        raise RunError(
            f"process {os.environ['RANK']} has not met all {os.environ['WORLD_SIZE']} processes in "
            f"{timeout:g} s; look at what the other machines' processes have printed ({told})"
        ) from error
    process_group = TorchProcessGroup(store, timeout)
    try:
        yield process_group
    except Exception as error:
        failure = process_group.root_cause(error)
        if isinstance(failure, PeerFailureError | InterruptedRunError):
            is_told = failure.told if isinstance(failure, PeerFailureError) else rank > 0
            if is_told:
                raise SystemExit(failure.exit_code) from error
        raise failure from error
    dist.destroy_process_group()


def report_absence(error: DltrainError) -> None:
    """Tells the other processes why this one can't start, where there are others.

    They would wait for it in vain. What all processes of a machine find wrong, the first one tells.

    Raises:
        SystemExit: Another process of this machine tells of the same error.
    """
    if _is_alone():
        return
    try:
        with output_suppressed(2):
            _, store, rank, size = _meeting(timedelta(seconds=_HEARING_SECONDS))
            first = rank - int(os.environ["LOCAL_RANK"])
            store.set(f"{_ARRIVED}/{rank}", _word(rank, error))
            told = store.get(f"{_ARRIVED}/{first}").decode()
            deadline = time.monotonic() + _HEARING_SECONDS
            heard = store.add(_HEARD, 1)
            while heard < size and time.monotonic() < deadline:
                time.sleep(0.05)
                heard = store.add(_HEARD, 0)
            if heard >= size:  # processes that are started again have a word of their own
                store.delete_key(f"{_ARRIVED}/{rank}")
                store.delete_key(_HEARD)
    except RuntimeError:  # nobody is there to be told
        return
    if first != rank and told.endswith(f" {error}"):
        raise SystemExit(error.exit_code) from error


def _is_alone() -> bool:
    return not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1


def _meeting(wait: timedelta) -> tuple[Store, Store, int, int]:
    """The launcher's store, a part of it for this meeting, this process's rank, and their number.

    Processes that are started again may find the launcher's store as the last ones left it.
    """
    launcher, rank, size = next(rendezvous("env://", timeout=wait))
    return launcher, PrefixStore(f"dltrain/{launcher.add(_MEETINGS, 0)}", launcher), rank, size


def _require_all(store: Store, rank: int, size: int) -> None:
    """Waits for all processes, or for the word of one that can't start."""
    store.set(f"{_ARRIVED}/{rank}", "")
    words = [store.get(f"{_ARRIVED}/{other}").decode() for other in range(size)]
    store.add(_HEARD, 1)
    if word := next(filter(None, words), ""):
        raise PeerFailureError(word, size)


@contextmanager
def output_suppressed(descriptor: int) -> Iterator[None]:
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
