"""Run a sweep's command in several processes, which divide the threads and the GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from dltrain.core.errors import InterruptedRunError, RunError


def run_workers(arguments: Sequence[str], count: int) -> None:
    """Run `dltrain ARGUMENTS` in several processes, and wait until they end.

    SIGINT and SIGTERM are forwarded to the processes, which also end when this one is killed.

    Args:
        arguments: Command-line arguments of `dltrain`.
        count: Number of processes.

    Raises:
        InterruptedRunError: A signal interrupted them.
        RunError: A process failed; all have ended.
    """
    workers: list[subprocess.Popen[bytes]] = []
    with _forward_signals(workers) as signals:
        for number in range(count):
            worker = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "dltrain", *arguments],
                stdin=subprocess.PIPE,  # closes when this process ends
                env={**os.environ, **worker_environment(number, count)},
                start_new_session=True,  # Ctrl-C is forwarded by this process
            )
            workers.append(worker)
        codes = [worker.wait() for worker in workers]
    for worker in workers:
        if worker.stdin is not None:
            worker.stdin.close()
    if signals:
        raise InterruptedRunError(signals[0])
    if any(codes):
        ended = ", ".join(str(code) for code in codes)
        raise RunError(f"expected {count} processes to succeed, got exit codes {ended}")


def worker_environment(number: int, count: int) -> dict[str, str]:
    """Return environment variables that assign threads and a GPU to one of `count` processes."""
    threads = str(max(1, torch.get_num_threads() // count))
    environment = {"OMP_NUM_THREADS": threads}
    gpus = torch.cuda.device_count()
    if gpus > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[number % gpus]
    return environment


@contextmanager
def _forward_signals(workers: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Forward signals to the workers inside this context; yield the list of received signals."""
    received: list[int] = []

    def handle(signal_number: int, _frame: object) -> None:
        received.append(signal_number)
        for worker in workers:
            worker.send_signal(signal_number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.signal(number, handle) for number in numbers}
    except ValueError:  # not the main thread: the caller handles signals
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """Interrupt this process, after a checkpoint, when its parent process ends."""

    def wait() -> None:
        # Not sys.stdin, whose lock this thread would hold during interpreter shutdown.
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
