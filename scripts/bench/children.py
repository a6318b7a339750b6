"""Processes that report events while they run, and are ended when they take too long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVENTS = "GPU_CHECK_EVENTS"
"""Environment variable that names the file to which a child appends its events."""

_POLL_SECONDS = 0.1
_DUMP_SECONDS = 3.0  # what a child may take to write where it hangs, and to die
TAIL_LINES = 20

Event = dict[str, Any]


def emit(**event: Any) -> None:
    """Appends an event, one line of strict JSON, to the file that the parent reads."""
    line = json.dumps(event, allow_nan=False) + "\n"
    with Path(os.environ[EVENTS]).open("a", encoding="utf-8") as file:
        file.write(line)


@dataclass(frozen=True)
class Ending:
    """How a child ended.

    Attributes:
        code: Its exit code, negative for a signal.
        reason: Why the parent ended it; None where it ended by itself.
        tail: The last lines of what it printed.
    """

    code: int
    reason: str | None
    tail: list[str]


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    seconds: float,
    on_event: Callable[[Event], None],
    patience: Callable[[], float] = lambda: float("inf"),
) -> Ending:
    """Runs a command in a session of its own and hands over its events as they arrive.

    Args:
        command: Program and arguments.
        cwd: Working directory.
        environment: All of its environment variables.
        seconds: Hard limit, after which the process and its children are killed.
        on_event: Receives each event.
        patience: Seconds that may pass without an event; asked anew each time.
    """
    with tempfile.TemporaryDirectory() as folder:
        events, output = Path(folder) / "events.jsonl", Path(folder) / "output.txt"
        events.touch()
        with output.open("wb") as out:
            child = subprocess.Popen(
                command,
                cwd=cwd,
                env={**environment, EVENTS: str(events), "PYTHONFAULTHANDLER": "1"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            reason = _watch(child, events, seconds, on_event, patience)
        finally:
            _kill(child)
        tail = _tail(output.read_bytes().decode(errors="replace").splitlines())
    code = child.returncode
    return Ending(-signal.SIGKILL if code is None else code, reason, tail)


def _tail(lines: list[str]) -> list[str]:
    """The last lines; of a stack by faulthandler, which begins with the innermost call, the first.

    An error message before the stack is kept.
    """
    dumps = [number for number, line in enumerate(lines) if "(most recent call first)" in line]
    if not dumps:
        return lines[-TAIL_LINES:]
    before = lines[max(dumps[0] - 5, 0) : dumps[0]]
    return [*before, *lines[dumps[-1] : dumps[-1] + TAIL_LINES]]


def _watch(
    child: subprocess.Popen[bytes],
    events: Path,
    seconds: float,
    on_event: Callable[[Event], None],
    patience: Callable[[], float],
) -> str | None:
    """Waits for the end; the reason if the child has to be ended."""
    started = last = time.monotonic()
    with events.open(encoding="utf-8") as lines:
        pending = ""
        while True:
            running = child.poll() is None  # before reading, so that no last event is missed
            while line := lines.readline():
                pending += line
                if pending.endswith("\n"):
                    on_event(json.loads(pending))
                    pending, last = "", time.monotonic()
            if not running:
                return None
            now = time.monotonic()
            if now - started > seconds:
                return f"ended after its limit of {seconds:.0f} s"
            if now - last > patience():
                return f"ended: no progress for {now - last:.0f} s"
            time.sleep(_POLL_SECONDS)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Ends the process and everything it started; first lets it print where it is."""
    if child.poll() is None:
        child.send_signal(signal.SIGABRT)  # faulthandler writes the stack of every thread
        with suppress(subprocess.TimeoutExpired):
            child.wait(_DUMP_SECONDS)
    with suppress(ProcessLookupError):  # nobody may be left of its group
        os.killpg(child.pid, signal.SIGKILL)
    # A process that hangs in the driver survives SIGKILL; nothing waits for it any longer.
    with suppress(subprocess.TimeoutExpired):
        child.wait(_DUMP_SECONDS)
