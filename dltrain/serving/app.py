"""The web application: its routes, and the responses to requests that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from torch import Tensor

from dltrain.core.data_spec import DataSpec
from dltrain.core.errors import escape_control_characters, shorten
from dltrain.core.jsonable import to_jsonable
from dltrain.serving.batching import Batcher
from dltrain.serving.limits import Limits
from dltrain.serving.metrics import CONTENT_TYPE, Metrics
from dltrain.serving.middleware import BodyLimit, HostCheck, RecordMetrics
from dltrain.serving.pages import SECURITY_HEADERS, ModelInfo, demo_responses, docs_page
from dltrain.serving.problems import AsciiJSONResponse, Errors, RequestError, overloaded
from dltrain.serving.request_parsing import RequestParser
from dltrain.serving.schemas import Output, example, response_model

API_VERSION = "1"
"""Version of the interface, not of the model."""

NUM_PARSER_THREADS = 4

_SCHEMA = "#/components/schemas/{model}"

_REFUSALS = {
    400: "The body is not valid JSON or not a valid form, or the Host header is missing or "
    "malformed.",
    408: "The headers or the body took too long to arrive.",
    413: "The body is too long, or all images together have too many pixels.",
    415: "The model does not accept this content type.",
    421: "The Host header names another machine.",
    422: "The model does not accept an item; the response names it.",
    500: "The model failed.",
    503: "Too many requests are in progress; retry after Retry-After seconds.",
}


class Model(Protocol):
    """A model that predicts; `dltrain.commands.predict.Predictor` is one."""

    spec: DataSpec
    gives: Output

    def of_tensor(self, inputs: Tensor, names: Sequence[str]) -> list[Any]:
        """Return a dataclass for each input."""
        ...


def make_app(
    model: Model,
    info: ModelInfo,
    limits: Limits,
    metrics: Metrics,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """Return the web application.

    Args:
        model: The model that predicts.
        info: Description of the model, for pages and /healthz.
        limits: Limits on requests.
        metrics: Metrics that the application updates.
        hosts: Names by which a request may call this machine; None accepts any name.
    """
    service = _Service(model, info, limits, metrics)
    endpoints = {
        "/healthz": service.health,
        "/metrics": service.metrics_text,
        "/openapi.json": service.openapi,
        "/docs": service.docs,
        **demo_responses(model.spec, info),
    }
    app = FastAPI(
        title=escape_control_characters(info.name),
        version=API_VERSION,
        description=f"Predictions of a trained model. A request may have {limits.max_body:,} bytes "
        f"and {limits.max_items} items.",
        openapi_url=None,
        # These respond to HEAD, too, which the routes that FastAPI documents do not.
        routes=[Route(path, endpoint, methods=["GET"]) for path, endpoint in endpoints.items()],
        lifespan=service.lifespan,
        middleware=[
            Middleware(RecordMetrics, metrics=metrics, paths=["/predict", *endpoints]),
            Middleware(HostCheck, hosts=hosts),
            Middleware(
                BodyLimit,
                max_body=limits.max_body,
                max_bytes=limits.max_body * limits.max_requests,
            ),
        ],
        exception_handlers=dict.fromkeys(
            (RequestError, HTTPException, ClientDisconnect, Exception), _on_error
        ),
    )
    app.add_api_route(
        "/predict",
        service.predict,
        methods=["POST"],
        summary="Predict, as dltrain predict --json does",
        response_model=response_model(model.spec, model.gives),
        response_description="One prediction per item.",
        responses={
            status: {"model": Errors, "description": text} for status, text in _REFUSALS.items()
        },
        openapi_extra={"requestBody": _request_body(model.spec)},
    )
    app.add_api_route(
        "/healthz",
        service.health,
        summary="Describe the model",
        response_model=dict[str, str],
        response_description="The run, its checkpoint, its task and the device.",
    )
    app.add_api_route(
        "/metrics",
        service.metrics_text,
        summary="Count requests and measure their durations",
        response_class=PlainTextResponse,
        response_description="Metrics in the Prometheus text format.",
    )
    # FastAPI caches the description; the schemas of the body, which it does not parse, are added.
    schema = service.parser.model.model_json_schema(ref_template=_SCHEMA)
    schemas = app.openapi()["components"]["schemas"]
    schemas |= schema.pop("$defs", {}) | {"Inputs": schema}
    return app


def _request_body(spec: DataSpec) -> dict[str, Any]:
    """Return the OpenAPI description of a request's body."""
    schema = {"$ref": _SCHEMA.format(model="Inputs")}
    content: dict[str, Any] = {"application/json": {"schema": schema, "example": example(spec)}}
    if spec.inputs.kind == "image":
        files = {"type": "array", "items": {"contentMediaType": "application/octet-stream"}}
        form = {"type": "object", "properties": {"files": files}}
        content["multipart/form-data"] = {"schema": form}
    return {"required": True, "content": content}


class _Service:
    """The endpoints, and the state that they share."""

    def __init__(self, model: Model, info: ModelInfo, limits: Limits, metrics: Metrics) -> None:
        self.info, self.limits, self.metrics = info, limits, metrics
        self.parser = RequestParser(model.spec, limits)
        self._in_progress = asyncio.Semaphore(limits.max_requests)
        self._parser_threads = ThreadPoolExecutor(NUM_PARSER_THREADS, "dltrain-parser")

        def predict_batch(samples: Sequence[Tensor], names: Sequence[str]) -> list[Any]:
            return to_jsonable(model.of_tensor(self.parser.collate(samples), names))

        self.batcher = Batcher(
            predict_batch,
            max_batch=limits.max_batch,
            wait_seconds=limits.wait_seconds,
            on_batch=metrics.record_batch,
        )

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        async with self.batcher.running():
            yield
        self._parser_threads.shutdown()

    async def predict(self, request: Request) -> Response:
        # FastAPI would parse a body on the event loop, before the limit on concurrent requests
        # applies, in one media type per operation, and without a limit on the files of a form.
        with self.metrics.in_progress.track_inprogress():
            parse, body = await self._receive(request)
            if self._in_progress.locked():
                raise overloaded(f"{self.limits.max_requests} requests are in progress")
            async with self._in_progress:
                # The body is complete: a batch waits for the parser, and never for a client.
                with self.batcher.expecting():
                    loop = asyncio.get_running_loop()
                    parsed = await loop.run_in_executor(self._parser_threads, parse, body)
                return AsciiJSONResponse({"predictions": await self.batcher.predict(*parsed)})

    async def _receive(self, request: Request) -> tuple[Callable[[Any], Any], Any]:
        """Return the function that parses the body of a request, and the body."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            return self.parser.parse_json, await self._in_time(request.body())
        if kind == "multipart/form-data" and self.parser.key == "images":
            return self.parser.parse_files, await self._in_time(self._receive_files(request))
        accepted = " or multipart/form-data" if self.parser.key == "images" else ""
        raise RequestError(
            415, f"expected content type application/json{accepted}, got {kind or 'none'}"
        )

    async def _in_time(self, body: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self.limits.read_seconds):
                return await body
        except TimeoutError as error:
            message = f"the body took longer than {self.limits.read_seconds:g} s to arrive"
            raise RequestError(408, message, {"Connection": "close"}) from error

    async def _receive_files(self, request: Request) -> list[tuple[str, bytes]]:
        async with request.form(max_files=self.limits.max_items, max_fields=0) as form:
            uploads = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
            if not uploads:
                raise RequestError(422, "the form has no files")
            return [(part.filename or "unnamed", await part.read()) for part in uploads]

    async def health(self, request: Request) -> Response:
        keys = ("run", "checkpoint", "task", "device")
        return AsciiJSONResponse({"status": "ok"} | {key: getattr(self.info, key) for key in keys})

    async def metrics_text(self, request: Request) -> Response:
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        return AsciiJSONResponse(request.app.openapi())

    async def docs(self, request: Request) -> Response:
        page = docs_page(request.app.openapi(), str(request.base_url))
        return HTMLResponse(page, headers=SECURITY_HEADERS)


async def _on_error(request: Request, error: Exception) -> Response:
    match error:
        case RequestError():
            return error.response()
        case HTTPException():
            message = f"{request.method} {shorten(request.scope['path'])}: {error.detail}"
            return RequestError(error.status_code, message, error.headers).response()
        case ClientDisconnect():  # this response is for the metrics alone
            message = "the client disconnected before its request was complete"
            return RequestError(400, message).response()
        case _:  # the server logs the traceback, which a client must not see
            return RequestError(500, "the model failed; see the log of the service").response()
