"""Child processes that report events while they run and are killed at a time limit."""

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
"""Environment variable with the path of the file to which a child appends its events."""

TAIL_LINES = 20
"""Maximum number of lines of output or traceback in a result."""

_POLL_SECONDS = 0.1
_DUMP_SECONDS = 3.0
"""Time for a child to write its stack trace, or to exit after SIGKILL."""

Event = dict[str, Any]


def emit(**event: Any) -> None:
    """Append an event, one line of strict JSON, to the file that the parent reads."""
    line = json.dumps(event, allow_nan=False) + "\n"
    with Path(os.environ[EVENTS]).open("a", encoding="utf-8") as file:
        file.write(line)


@dataclass(frozen=True)
class ProcessResult:
    """Result of a child process.

    Attributes:
        code: Exit code; negative for a signal.
        reason: Reason why the parent killed it; None if it ended by itself.
        tail: Last lines of its output.
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
    idle_limit: Callable[[], float] = lambda: float("inf"),
) -> ProcessResult:
    """Run a command in a new session and pass on its events as they arrive.

    Args:
        command: Program and arguments.
        cwd: Working directory.
        environment: Complete environment of the process.
        seconds: Time limit, after which the process and its children are killed.
        on_event: Callback for each event.
        idle_limit: Returns the maximum number of seconds without an event; called repeatedly.

    Returns:
        Exit code and last output.
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
            reason = _watch(child, events, seconds, on_event, idle_limit)
        finally:
            _kill(child)
        tail = _tail(output.read_bytes().decode(errors="replace").splitlines())
    code = child.returncode
    return ProcessResult(-signal.SIGKILL if code is None else code, reason, tail)


def _tail(lines: list[str]) -> list[str]:
    """Return the last lines, or the first ones of faulthandler's last stack trace.

    faulthandler prints the innermost call first. An error message before the trace is kept.
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
    idle_limit: Callable[[], float],
) -> str | None:
    """Wait for the child to end; return the reason if a limit is exceeded."""
    start = last = time.monotonic()
    with events.open(encoding="utf-8") as lines:
        pending = ""
        while True:
            is_running = child.poll() is None  # polled before reading, to read the last events too
            while line := lines.readline():
                pending += line
                if pending.endswith("\n"):
                    on_event(json.loads(pending))
                    pending, last = "", time.monotonic()
            if not is_running:
                return None
            now = time.monotonic()
            if now - start > seconds:
                return f"killed after its time limit of {seconds:.0f} s"
            if now - last > idle_limit():
                return f"killed after {now - last:.0f} s without progress"
            time.sleep(_POLL_SECONDS)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill the process group, after the child has printed its stack trace."""
    if child.poll() is None:
        child.send_signal(signal.SIGABRT)  # faulthandler writes the stack of every thread
        with suppress(subprocess.TimeoutExpired):
            child.wait(_DUMP_SECONDS)
    with suppress(ProcessLookupError):  # the group may be empty
        os.killpg(child.pid, signal.SIGKILL)
    # A process that hangs in the driver survives SIGKILL, so the wait is limited.
    with suppress(subprocess.TimeoutExpired):
        child.wait(_DUMP_SECONDS)
