"""What every request goes through: counted, meant for this machine, and not too long."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import asdict
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dltrain.errors import brief
from dltrain.serving.metrics import Metrics
from dltrain.serving.problems import RequestError


def told(error: RequestError) -> Response:
    """The answer to a request that can't be answered."""
    body = {"errors": [asdict(problem) for problem in error.problems]}
    return JSONResponse(body, error.status, error.headers)


class Counted:
    """Counts every answer, by route and status.

    Args:
        app: What answers.
        metrics: Where it is counted.
        paths: The routes; others are counted as one.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and notes when its answer began and ended."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            # What strangers ask for must not become ever more labels.
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.answered(path, status, time.perf_counter() - began)


class HostCheck:
    """Refuses requests that were meant for another host.

    A page of a stranger whose name leads to the loopback address (DNS rebinding) would otherwise
    reach the service from inside the user's browser.

    Args:
        app: What answers.
        hosts: Names of this machine, in lower case; None for any.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers 421."""
        if scope["type"] == "http" and self.hosts is not None:
            given = Headers(scope=scope).get("host", "")
            if _name(given) not in self.hosts:
                error = RequestError(421, f"host {brief(given)!r} is not the one that answers here")
                await told(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _name(host: str) -> str | None:
    """A Host header without its port, in lower case."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:  # brackets that hold no address
        return None


class BodyLimit:
    """Ends a request whose body is too long, without taking it all.

    Args:
        app: What answers.
        max_body: Bytes of the longest body.
    """

    def __init__(self, app: ASGIApp, max_body: int) -> None:
        self.app, self.max_body = app, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, with a body that can't be read beyond the limit."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        # A body that is announced as too long is not even asked for.
        size = int(announced) if announced.isdecimal() else 0
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            if size <= self.max_body:
                message = await receive()
                taken += len(message.get("body", b""))
                if taken <= self.max_body:
                    return message
            raise RequestError(413, f"the body is longer than {self.max_body:,} bytes")

        await self.app(scope, counted, send)
