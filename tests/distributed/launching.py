"""Several processes of one program: forked ranks, and those of the real launcher."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import ChildProcess
from torch.distributed import TCPStore
from torch.distributed.run import main as torchrun_main

Ended = tuple[int, str, str]
"""Exit code, standard output and standard error."""


def in_ranks(
    folder: Path, size: int, run: Callable[..., object], *arguments: Any, **variables: str
) -> list[Ended]:
    """Run a function in forked processes that find what torchrun gives its ranks.

    This process holds the store, as the launcher would. A fork does not import torch again; what
    the launcher itself does has tests of its own.

    Args:
        folder: Working directory of all.
        size: Number of ranks.
        run: Function of a module that the ranks can import.
        arguments: Of the function.
        variables: Environment variables on top of those of the launcher.

    Returns:
        How each rank ended.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    of_all = {
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "GROUP_RANK": "0"},
        **{"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)},
        **{"TORCHELASTIC_RUN_ID": uuid.uuid4().hex, "TORCHELASTIC_USE_AGENT_STORE": "True"},
        **variables,
    }
    ranks = [
        ChildProcess(
            f"rank{rank}",
            folder,
            run,
            *arguments,
            environment={**of_all, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(size)
    ]
    return ended(*ranks)


def ended(*processes: ChildProcess) -> list[Ended]:
    """How processes end; none is left, also where one of them hangs."""
    try:
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.end()
    return [(code, p.out, p.err) for code, p in zip(codes, processes, strict=True)]


def torchrun(*words: object) -> None:
    """`torchrun WORDS`; its ranks are new processes of Python."""
    torchrun_main([*map(str, words)])


def agent(node: int, port: int, *words: object, backend: str = "static") -> list[object]:
    """The words that start one process of `python …`, as the launcher on one of two machines."""
    launcher = ["--nnodes", 2, "--node-rank", node]
    launcher += ["--rdzv-backend", backend, "--rdzv-endpoint", f"127.0.0.1:{port}"]
    return [*launcher, "--rdzv-id", "two", "--nproc-per-node", 1, *words]


def standalone(processes: int, *words: object, restarts: int = 0) -> list[object]:
    """The words that start so many processes of `python …`; a script, or `-m` and a module."""
    launcher = ["--standalone", "--max-restarts", restarts, "--nproc-per-node", processes]
    return [*launcher, *words]
