"""Processes that work on one sweep: the same command, again, each with a share of the machine."""

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


def run_workers(words: Sequence[str], count: int) -> None:
    """Runs `dltrain WORDS` in several processes, and waits for their end.

    SIGINT and SIGTERM are passed on to them, once each; they end by themselves where this process
    is killed.

    Args:
        words: What follows `dltrain` on the command line.
        count: How many.

    Raises:
        InterruptedRunError: A signal stopped them.
        RunError: One ended with an error; the others were waited for.
    """
    workers: list[subprocess.Popen[bytes]] = []
    with _passed_on(workers) as stopped_by:
        for number in range(count):
            worker = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "dltrain", *words],
                stdin=subprocess.PIPE,  # which closes as this process ends
                env={**os.environ, **shares(number, count)},
                start_new_session=True,  # Ctrl-C reaches them through this process alone
            )
            workers.append(worker)
        codes = [worker.wait() for worker in workers]
    for worker in workers:
        if worker.stdin is not None:
            worker.stdin.close()
    if stopped_by:
        raise InterruptedRunError(stopped_by[0])
    if any(codes):
        ended = ", ".join(str(code) for code in codes)
        raise RunError(f"not all of {count} processes came to their end; exit codes {ended}")


def shares(number: int, count: int) -> dict[str, str]:
    """Environment of one of several processes: its share of the threads, and a GPU of its own."""
    threads = str(max(1, torch.get_num_threads() // count))
    environment = {"OMP_NUM_THREADS": threads}
    gpus = torch.cuda.device_count()
    if gpus > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[number % gpus]
    return environment


@contextmanager
def _passed_on(workers: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Signals go to the workers inside this context; yields those that came."""
    came: list[int] = []

    def handle(signal_number: int, _frame: object) -> None:
        came.append(signal_number)
        for worker in workers:
            worker.send_signal(signal_number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.signal(number, handle) for number in numbers}
    except ValueError:  # not the main thread: whoever called has the signals
        yield came
        return
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """Stops this process, after a checkpoint, as soon as the one that started it has ended."""

    def wait() -> None:
        # Not sys.stdin, whose lock this thread would hold when the interpreter ends.
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
