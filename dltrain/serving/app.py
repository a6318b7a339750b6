"""The web application: routes, and what goes wrong on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from torch import Tensor

from dltrain.errors import brief
from dltrain.plain import as_plain
from dltrain.serving.batching import Batcher
from dltrain.serving.limits import Limits
from dltrain.serving.metrics import CONTENT_TYPE, Metrics
from dltrain.serving.middleware import AsciiJSON, BodyLimit, Counted, HostCheck, busy, told
from dltrain.serving.openapi import Gives, describe, docs_page
from dltrain.serving.page import SECURITY_HEADERS, static_files, try_page
from dltrain.serving.problems import RequestError
from dltrain.serving.reading import Reader
from dltrain.spec import DataSpec

READERS = 4
"""Threads that decode what requests hold."""


class Model(Protocol):
    """What answers; `dltrain.commands.predict.Predictor` is one."""

    spec: DataSpec
    gives: Gives

    def of_tensor(self, inputs: Tensor, names: Sequence[str]) -> list[Any]:
        """A dataclass of its own for each input."""
        ...


@dataclass(frozen=True)
class About:
    """What is served.

    Attributes:
        run: The run directory.
        checkpoint: Where the weights came from.
        task: The run's.
        device: Where it computes.
    """

    run: str
    checkpoint: str
    task: str
    device: str


def make_app(
    model: Model,
    about: About,
    limits: Limits,
    metrics: Metrics,
    hosts: Collection[str] | None = None,
) -> Starlette:
    """The application.

    Args:
        model: What answers.
        about: What to say of it.
        limits: How much may be asked.
        metrics: Where it is counted.
        hosts: Names that a request may call this machine by; None for any.
    """
    service = _Service(model, about, limits, metrics)
    routes = [
        Route("/", service.page),
        Route("/predict", service.predict, methods=["POST"]),
        Route("/healthz", service.health),
        Route("/metrics", service.metrics_text),
        Route("/openapi.json", service.openapi),
        Route("/docs", service.docs),
        Route("/static/{name}", service.static),
    ]
    return Starlette(
        routes=routes,
        lifespan=service.lifespan,
        middleware=[
            Middleware(Counted, metrics=metrics, paths=[route.path for route in routes]),
            Middleware(HostCheck, hosts=hosts),
            Middleware(
                BodyLimit,
                max_body=limits.max_body,
                max_bytes=limits.max_body * limits.max_requests,
            ),
        ],
        exception_handlers={
            RequestError: _request_error,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
            Exception: _bug,
        },
    )


class _Service:
    """What the routes do."""

    def __init__(self, model: Model, about: About, limits: Limits, metrics: Metrics) -> None:
        self.about, self.limits, self.metrics = about, limits, metrics
        self.reader = Reader(model.spec, limits)
        self.description = describe(model.spec, model.gives, about.run, self.reader.model, limits)
        self._page = try_page(model.spec, about.run, about.checkpoint)
        self._static = static_files()
        self._in_work = 0

        def answer(samples: Sequence[Tensor], names: Sequence[str]) -> list[Any]:
            return as_plain(model.of_tensor(self.reader.collate(samples), names))

        self.batcher = Batcher(
            answer,
            max_batch=limits.max_batch,
            wait_seconds=limits.wait_seconds,
            observe=metrics.batch,
        )
        self._reading = ThreadPoolExecutor(READERS, thread_name_prefix="dltrain-reading")

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with self.batcher.running():
            yield
        self._reading.shutdown()

    async def predict(self, request: Request) -> Response:
        with self.metrics.in_progress.track_inprogress():
            read, body = await self._body(request)
            with self._admitted():
                samples, names = await self._in_thread(read, body)
                return AsciiJSON({"predictions": await self.batcher.ask(samples, names)})

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """A place among the requests in work; refused where all are taken."""
        if self._in_work >= self.limits.max_requests:
            raise busy(f"{self._in_work} requests are in work, as many as are taken")
        self._in_work += 1
        try:
            yield
        finally:
            self._in_work -= 1

    async def _body(self, request: Request) -> tuple[Callable[[Any], Any], Any]:
        """The body of a request, which has arrived, and what reads it."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            return self.reader.of_json, await self._arrived(request.body())
        if kind == "multipart/form-data" and self.reader.key == "images":
            return self.reader.of_files, await self._arrived(self._uploads(request))
        forms = " or multipart/form-data" if self.reader.key == "images" else ""
        raise RequestError(
            415, f"content type {kind or 'missing'}; wanted: application/json{forms}"
        )

    async def _arrived(self, arriving: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self.limits.read_seconds):
                return await arriving
        except TimeoutError as error:
            message = f"the body took longer than {self.limits.read_seconds:g} s to arrive"
            raise RequestError(408, message, {"Connection": "close"}) from error

    async def _uploads(self, request: Request) -> list[tuple[str, bytes]]:
        async with request.form(max_files=self.limits.max_items, max_fields=0) as form:
            uploads = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
            if not uploads:
                raise RequestError(422, "the form has no files")
            return [(part.filename or "unnamed", await part.read()) for part in uploads]

    async def _in_thread(self, read: Callable[[Any], Any], given: Any) -> Any:
        # From here on no client is waited for: a batch may wait for this request.
        with self.batcher.expecting():
            return await asyncio.get_running_loop().run_in_executor(self._reading, read, given)

    async def health(self, request: Request) -> Response:
        return AsciiJSON({"status": "ok", **asdict(self.about)})

    async def metrics_text(self, request: Request) -> Response:
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        return AsciiJSON(self.description)

    async def docs(self, request: Request) -> Response:
        page = docs_page(self.description, str(request.base_url))
        return HTMLResponse(page, headers=SECURITY_HEADERS)

    async def page(self, request: Request) -> Response:
        return HTMLResponse(self._page, headers=SECURITY_HEADERS)

    async def static(self, request: Request) -> Response:
        found = self._static.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        content, kind = found
        return Response(content, media_type=kind, headers=SECURITY_HEADERS)


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return told(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {brief(request.scope['path'])}: {error.detail}"
    return told(RequestError(error.status_code, message, error.headers))


async def _gone(request: Request, error: Exception) -> Response:
    """Nobody reads it; the counts have it."""
    return told(RequestError(400, "the client left before its request was complete"))


async def _bug(request: Request, error: Exception) -> Response:
    """What no request should cause: the traceback goes to the log, not to a stranger."""
    return told(RequestError(500, "the model failed; the service's log says how"))
