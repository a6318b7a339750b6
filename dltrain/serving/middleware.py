"""What every request goes through: counted, meant for this machine, and not too long."""

from __future__ import annotations

import ipaddress
import json
import re
import time
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dltrain.errors import brief
from dltrain.serving.metrics import Metrics
from dltrain.serving.problems import RequestError

RETRY_AFTER_SECONDS = 1


class AsciiJSON(JSONResponse):
    """JSON whose other characters are escaped: names of files and classes need not be UTF-8."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def told(error: RequestError) -> Response:
    """The answer to a request that can't be answered."""
    body = {"errors": [asdict(problem) for problem in error.problems]}
    return AsciiJSON(body, error.status, error.headers)


def busy(message: str) -> RequestError:
    """The answer to a request that may be repeated soon."""
    return RequestError(503, f"{message}; come again", {"Retry-After": str(RETRY_AFTER_SECONDS)})


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


_HOST = re.compile(
    r"(?P<name>(?=.{1,253}(?::|$))[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
    r"(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*|\[(?P<address>[0-9a-f:.]+)\])"
    r"(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII,
)
"""`host` or `host:port` in lower case: a name without a dot at its end, or an IPv6 address."""


class HostCheck:
    """Refuses requests without exactly one well-formed Host, and those meant for another host.

    A page of a stranger whose name leads to the loopback address (DNS rebinding) would otherwise
    reach the service from inside the user's browser.

    Args:
        app: What answers.
        hosts: Names of this machine, in lower case; None for any.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers 400 or 421."""
        if scope["type"] == "http" and (error := self._refusal(scope)) is not None:
            await told(error)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> RequestError | None:
        given = Headers(scope=scope).getlist("host")
        name = host_name(given[0]) if len(given) == 1 else None
        if name is None:
            shown = brief(", ".join(given))
            return RequestError(400, f"expected one header Host: name[:port], got {shown!r}")
        if self.hosts is not None and name not in self.hosts:
            return RequestError(421, f"host {brief(name)!r} is not the one that answers here")
        return None


def host_name(host: str) -> str | None:
    """Return the name or address in a Host header, in lower case; None if it is malformed."""
    found = _HOST.fullmatch(host.lower())
    if found is None or not 1 <= int(found["port"] or 1) <= 65535:
        return None
    if found["address"] is None:
        return found["name"]
    try:
        return str(ipaddress.IPv6Address(found["address"]))
    except ValueError:
        return None


class BodyLimit:
    """Ends a request whose body is too long, without taking it all.

    Args:
        app: What answers.
        max_body: Bytes of the longest body.
        max_bytes: Bytes of all bodies that are arriving or in work.
    """

    def __init__(self, app: ASGIApp, max_body: int, max_bytes: int) -> None:
        self.app, self.max_body, self.max_bytes = app, max_body, max_bytes
        self._bytes = 0

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
                self._bytes += len(message.get("body", b""))
                if self._bytes > self.max_bytes:
                    raise busy(f"the requests in work have {self.max_bytes:,} bytes")
                if taken <= self.max_body:
                    return message
            raise RequestError(413, f"the body is longer than {self.max_body:,} bytes")

        try:
            await self.app(scope, counted, send)
        finally:
            self._bytes -= taken
