"""Jobs that a background thread runs during training, one after another."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures


class BackgroundWriter:
    """Runs jobs in a background thread, first in, first out; after an error, no job is started.

    The error of a job is raised by every later call except `drain`.
    """

    def __init__(self) -> None:
        self._thread = futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="background")
        self._jobs: list[futures.Future[None]] = []
        self._error: BaseException | None = None

    def submit(self, job: Callable[[], object]) -> None:
        """Queue a job."""
        self.check()
        self._jobs = [job for job in self._jobs if not job.done()]
        self._jobs.append(self._thread.submit(self._do, job))

    def check(self) -> None:
        """Raise the error of a job if one has failed, without waiting."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Wait until all jobs are done, and raise the error of one that has failed."""
        while self._jobs:
            self._jobs.pop(0).result()
        self.check()

    def drain(self) -> None:
        """Wait until all jobs are done, without raising an error."""
        futures.wait(self._jobs)

    def _do(self, job: Callable[[], object]) -> None:
        if self._error is not None:
            return
        try:
            job()
        except BaseException as error:
            self._error = error
