"""Pytest plugin that emits an event when a test starts and ends; see `bench.subprocesses`."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from bench.gpu_plan import DEADLINE, seconds_of_test
from bench.subprocesses import TAIL_LINES, emit

_SEVERITY = {"passed": 0, "skipped": 1, "failed": 2, "error": 3}


class Reporter:
    """Emits `collected`, `started` and `test` events.

    Args:
        deadline: Unix time in seconds; a test that is not expected to finish before is not run.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.entry: dict[str, Any] = {}
        self.broken: str | None = None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Report a file that cannot be imported as a failed test."""
        if report.failed:
            emit(test=report.nodeid, outcome="error", seconds=0.0, **_failure(report))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Emit the names of all tests."""
        emit(collected=[item.nodeid for item in session.items])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Skip tests for which too little time is left."""
        if self.broken is not None:
            item.session.shouldstop = self.broken
            return True
        left = self.deadline - time.time()
        if left < seconds_of_test(item.nodeid):
            message = f"no time left: {max(left, 0):.0f} s"
            emit(test=item.nodeid, outcome="not run", seconds=0.0, message=message)
            return True
        return None

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Emit `started`."""
        self.entry = {"outcome": "passed", "seconds": 0.0}
        emit(started=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the worst outcome of set-up, call and tear-down."""
        outcome = report.outcome
        if outcome == "failed" and report.when != "call":
            outcome = "error"
        entry = self.entry
        entry["seconds"] = round(entry["seconds"] + report.duration, 3)
        if _SEVERITY[outcome] > _SEVERITY[entry["outcome"]]:
            entry |= {"outcome": outcome, **_failure(report)}
        # After a CUDA error every later call in this process fails, so the remaining tests run in
        # a new process.
        message = entry.get("message", "")
        if "CUDA error" in message and "out of memory" not in message:
            self.broken = "the CUDA context is broken"

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Emit `test` with the outcome."""
        emit(test=nodeid, **self.entry)


def _failure(report: pytest.CollectReport | pytest.TestReport) -> dict[str, Any]:
    """Return the message and the last lines of the traceback."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return {"message": str(report.longrepr[2])}
    lines = report.longreprtext.splitlines()
    crash = getattr(report.longrepr, "reprcrash", None)
    message = crash.message if crash is not None else (lines[-1] if lines else "")
    return {"message": message[:2000], "traceback": lines[-TAIL_LINES:]}


def pytest_configure(config: pytest.Config) -> None:
    """Register the reporter."""
    deadline = float(os.environ.get(DEADLINE, "inf"))
    config.pluginmanager.register(Reporter(deadline), "gpu_check")
