"""Several processes of one program, started by torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent


def environment(**more: str) -> dict[str, str]:
    """Finds what the tests import, and leaves a core to each process."""
    paths = (str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", ""))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **more}


def start(folder: Path, *words: object, **more: str) -> subprocess.Popen[str]:
    """`python …` in a folder."""
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = 240) -> tuple[int, str, str]:
    """Exit code, standard output and standard error; a process that hangs is ended."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # the launcher ends its processes
        out, err = process.communicate(timeout=60)
        raise AssertionError(f"still ran after {seconds} s:\n{out}\n{err}") from None
    return process.returncode, out, err


def agent(node: int, port: int, *words: object, backend: str = "static") -> list[object]:
    """The words that start one process of `python …`, as the launcher on one of two machines."""
    launcher = ["-m", "torch.distributed.run", "--nnodes", 2, "--node-rank", node]
    launcher += ["--rdzv-backend", backend, "--rdzv-endpoint", f"127.0.0.1:{port}"]
    return [*launcher, "--rdzv-id", "two", "--nproc-per-node", 1, *words]


def torchrun(processes: int, *words: object, restarts: int = 0) -> list[object]:
    """The words that start so many processes of `python …`; a script, or `-m` and a module."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--max-restarts", restarts]
    return [*launcher, "--nproc-per-node", processes, *words]
