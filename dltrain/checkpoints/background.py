"""Work that a thread does while the training goes on, one job after another."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures


class BackgroundWriter:
    """Does jobs in their order; after one that failed, none is begun any more.

    The error of a job is raised by every later call but `settle`.
    """

    def __init__(self) -> None:
        self._thread = futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="background")
        self._jobs: list[futures.Future[None]] = []
        self._error: BaseException | None = None

    def submit(self, job: Callable[[], object]) -> None:
        """Queues a job."""
        self.check()
        self._jobs = [job for job in self._jobs if not job.done()]
        self._jobs.append(self._thread.submit(self._do, job))

    def check(self) -> None:
        """Does not wait."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Until all jobs are done."""
        while self._jobs:
            self._jobs.pop(0).result()
        self.check()

    def drain(self) -> None:
        """Waits likewise; an error is left for others."""
        futures.wait(self._jobs)

    def _do(self, job: Callable[[], object]) -> None:
        if self._error is not None:
            return
        try:
            job()
        except BaseException as error:
            self._error = error
