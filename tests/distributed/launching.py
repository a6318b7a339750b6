"""Start ranks: forked processes, or processes of the real launcher."""

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
    """Run a function in forked processes with the environment variables of torchrun.

    This process holds the store, as the launcher would. A forked process does not import torch
    again. Other tests use the launcher itself.

    Args:
        folder: Working directory of all ranks.
        size: Number of ranks.
        run: Function from an importable module.
        arguments: Positional arguments of the function.
        variables: Environment variables added to those of the launcher.

    Returns:
        Exit code, standard output and standard error of each rank.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
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
            environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(size)
    ]
    return ended(*ranks)


def ended(*processes: ChildProcess) -> list[Ended]:
    """Wait for processes and return how they ended; kill all of them if one hangs."""
    try:
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.end()
    return [(code, p.out, p.err) for code, p in zip(codes, processes, strict=True)]


def torchrun(*words: object) -> None:
    """Run `torchrun WORDS`; its ranks are new Python processes."""
    torchrun_main([*map(str, words)])


def agent(node: int, port: int, *words: object, backend: str = "static") -> list[object]:
    """Return arguments of torchrun for one of two nodes, with one process of `python WORDS`."""
    launcher = ["--nnodes", 2, "--node-rank", node]
    launcher += ["--rdzv-backend", backend, "--rdzv-endpoint", f"127.0.0.1:{port}"]
    return [*launcher, "--rdzv-id", "two", "--nproc-per-node", 1, *words]


def standalone(processes: int, *words: object, restarts: int = 0) -> list[object]:
    """Return arguments of torchrun for processes of `python WORDS` on this node."""
    launcher = ["--standalone", "--max-restarts", restarts, "--nproc-per-node", processes]
    return [*launcher, *words]
