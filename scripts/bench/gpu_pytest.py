"""A pytest plugin that reports each test as soon as it starts and ends; see `bench.children`."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from bench.children import TAIL_LINES, emit
from bench.gpu_plan import DEADLINE, seconds_of_test

_ORDER = {"passed": 0, "skipped": 1, "failed": 2, "error": 3}


class Reporter:
    """Emits `collected`, `started` and `test` events, and starts no test that can't finish."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.entry: dict[str, Any] = {}
        self.broken: str | None = None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that can't be imported is a test that failed."""
        if report.failed:
            emit(test=report.nodeid, outcome="error", seconds=0.0, **_told(report))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """All tests by name."""
        emit(collected=[item.nodeid for item in session.items])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Leaves out what the time does not suffice for."""
        if self.broken is not None:
            item.session.shouldstop = self.broken
            return True
        left = self.deadline - time.time()
        if left < seconds_of_test(item.nodeid):
            message = f"no time: {max(left, 0):.0f} s are left"
            emit(test=item.nodeid, outcome="not run", seconds=0.0, message=message)
            return True
        return None

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Pytest's name for the start of a test."""
        self.entry = {"outcome": "passed", "seconds": 0.0}
        emit(started=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of a test's set-up, its call and its tear-down, the worst counts."""
        outcome = report.outcome
        if outcome == "failed" and report.when != "call":
            outcome = "error"
        entry = self.entry
        entry["seconds"] = round(entry["seconds"] + report.duration, 3)
        if _ORDER[outcome] > _ORDER[entry["outcome"]]:
            entry |= {"outcome": outcome, **_told(report)}
        # After such an error every later call in this process fails: the others get a new one.
        message = entry.get("message", "")
        if "CUDA error" in message and "out of memory" not in message:
            self.broken = "the CUDA context is broken"

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Pytest's name for the end of a test."""
        emit(test=nodeid, **self.entry)


def _told(report: pytest.CollectReport | pytest.TestReport) -> dict[str, Any]:
    """The message and the last lines of the traceback."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return {"message": str(report.longrepr[2])}
    lines = report.longreprtext.splitlines()
    crash = getattr(report.longrepr, "reprcrash", None)
    message = crash.message if crash is not None else (lines[-1] if lines else "")
    return {"message": message[:2000], "traceback": lines[-TAIL_LINES:]}


def pytest_configure(config: pytest.Config) -> None:
    """Pytest's name for its start."""
    deadline = float(os.environ.get(DEADLINE, "inf"))
    config.pluginmanager.register(Reporter(deadline), "gpu_check")
