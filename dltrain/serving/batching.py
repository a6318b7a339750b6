"""Requests that arrive together are computed together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from torch import Tensor

Answer = Callable[[Sequence[Tensor], Sequence[str]], list[Any]]
"""Samples and their names to as many answers; called in a thread, one call at a time."""


@dataclass
class _Job:
    """One request's samples, which have arrived at a time of the event loop's clock."""

    samples: Sequence[Tensor]
    names: Sequence[str]
    arrived: float
    answers: asyncio.Future[list[Any]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Batcher:
    """Takes samples from many, and asks the model for a batch of them at a time.

    Args:
        answer: Computes a batch.
        max_batch: Most samples in a call of it.
        wait_seconds: How long the first of them waits for others that are expected.
        observe: Is told the size of each batch.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        max_batch: int,
        wait_seconds: float,
        observe: Callable[[int], None],
    ) -> None:
        self._answer, self._observe = answer, observe
        self._max_batch, self._wait_seconds = max_batch, wait_seconds
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._expected = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dltrain-model")

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """While this lasts, samples may follow that a batch had better wait for."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1

    async def ask(self, samples: Sequence[Tensor], names: Sequence[str]) -> list[Any]:
        """An answer for each sample; raises what computing them alone raised."""
        job = _Job(samples, names, asyncio.get_running_loop().time())
        await self._jobs.put(job)
        return await job.answers

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Computes as long as this lasts."""
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
            until = jobs[0].arrived + self._wait_seconds
            while sum(len(job.samples) for job in jobs) < self._max_batch:
                job = await self._next(until)
                if job is None:
                    break
                jobs.append(job)
            await self._compute(jobs)

    async def _next(self, until: float) -> _Job | None:
        """Another job, if one is here or comes in time."""
        with suppress(asyncio.QueueEmpty):
            return self._jobs.get_nowait()
        if not self._expected:
            return None
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                return await self._jobs.get()
        return None

    async def _compute(self, jobs: Sequence[_Job]) -> None:
        samples = [*chain.from_iterable(job.samples for job in jobs)]
        names = [*chain.from_iterable(job.names for job in jobs)]
        answers: list[Any] = []
        try:
            for start in range(0, len(samples), self._max_batch):
                part = slice(start, start + self._max_batch)
                self._observe(len(samples[part]))
                answers += await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._answer, samples[part], names[part]
                )
        except Exception as error:  # a model may raise anything
            if len(jobs) == 1:
                _settle(jobs[0], error)
                return
            for job in jobs:  # what one of them causes is not the others' fault
                await self._compute([job])
            return
        given = iter(answers)
        for job in jobs:
            _settle(job, [next(given) for _ in job.samples])


def _settle(job: _Job, outcome: list[Any] | Exception) -> None:
    if job.answers.done():  # whoever asked has gone
        return
    if isinstance(outcome, Exception):
        job.answers.set_exception(outcome)
    else:
        job.answers.set_result(outcome)
