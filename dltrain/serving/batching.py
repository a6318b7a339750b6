"""Batching of requests: samples that arrive together are computed together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from torch import Tensor

PredictBatch = Callable[[Sequence[Tensor], Sequence[str]], list[Any]]
"""Samples and their names to one prediction per sample; called in a thread, one call at a time."""


@dataclass
class _Job:
    """The samples of a request, and their arrival on the clock of the event loop."""

    samples: Sequence[Tensor]
    names: Sequence[str]
    arrival: float
    result: asyncio.Future[list[Any]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Batcher:
    """Collect the samples of concurrent requests into batches.

    Args:
        predict_batch: Computes a batch.
        max_batch: Maximum number of samples in a batch.
        wait_seconds: Time for which the first sample of a batch waits for expected ones.
        on_batch: Receives the size of each batch.
    """

    def __init__(
        self,
        predict_batch: PredictBatch,
        *,
        max_batch: int,
        wait_seconds: float,
        on_batch: Callable[[int], None],
    ) -> None:
        self._predict_batch, self._on_batch = predict_batch, on_batch
        self._max_batch, self._wait_seconds = max_batch, wait_seconds
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._num_expected = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dltrain-model")

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Let batches wait for the samples of a request that is being parsed."""
        self._num_expected += 1
        try:
            yield
        finally:
            self._num_expected -= 1

    async def predict(self, samples: Sequence[Tensor], names: Sequence[str]) -> list[Any]:
        """Return one prediction per sample; raises what computing these samples alone raises."""
        job = _Job(samples, names, asyncio.get_running_loop().time())
        await self._jobs.put(job)
        return await job.result

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Compute batches inside the context."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self._thread.shutdown()

    async def _run(self) -> None:
        while True:
            jobs = [await self._jobs.get()]
            deadline = jobs[0].arrival + self._wait_seconds
            while sum(len(job.samples) for job in jobs) < self._max_batch:
                job = await self._next_job(deadline)
                if job is None:
                    break
                jobs.append(job)
            await self._compute(jobs)

    async def _next_job(self, deadline: float) -> _Job | None:
        """Return a job that is queued, or is expected and arrives before the deadline."""
        with suppress(asyncio.QueueEmpty):
            return self._jobs.get_nowait()
        if not self._num_expected:
            return None
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                return await self._jobs.get()
        return None

    async def _compute(self, jobs: Sequence[_Job]) -> None:
        samples = [*chain.from_iterable(job.samples for job in jobs)]
        names = [*chain.from_iterable(job.names for job in jobs)]
        predictions: list[Any] = []
        try:
            for start in range(0, len(samples), self._max_batch):
                part = slice(start, start + self._max_batch)
                self._on_batch(len(samples[part]))
                predictions += await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._predict_batch, samples[part], names[part]
                )
        except Exception as error:  # a model may raise anything
            if len(jobs) == 1:
                _finish(jobs[0], error)
                return
            for job in jobs:  # a request must not fail because of another one
                await self._compute([job])
            return
        remaining = iter(predictions)
        for job in jobs:
            _finish(job, [next(remaining) for _ in job.samples])


def _finish(job: _Job, outcome: list[Any] | Exception) -> None:
    if job.result.done():  # the client has disconnected
        return
    if isinstance(outcome, Exception):
        job.result.set_exception(outcome)
    else:
        job.result.set_result(outcome)
