"""ASGI middleware of every request: metrics, the check of the Host header, limits on bodies."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dltrain.core.errors import shorten
from dltrain.serving.metrics import Metrics
from dltrain.serving.problems import RequestError, overloaded


class RecordMetrics:
    """Record each response by path and status.

    Args:
        app: The next ASGI application.
        metrics: The metrics to update.
        paths: Paths of the routes; all others are recorded as `other`.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self.app = app
        self.metrics = metrics
        self.paths: frozenset[str] = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request; record its duration and the status of its response."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note_status)
        finally:
            # Unknown paths must not add an unbounded number of labels.
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.record_request(path, status, time.perf_counter() - start)


_HOST = re.compile(
    r"(?P<name>(?=.{1,253}(?::|$))[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
    r"(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*|\[(?P<address>[0-9a-f:.]+)\])"
    r"(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII,
)
"""`host` or `host:port` in lower case: a name without a trailing dot, or an IPv6 address."""


class HostCheck:
    """Refuse requests without exactly one well-formed Host header, and those for another host.

    Otherwise a website whose host name resolves to the loopback address (DNS rebinding) could
    reach the service from the user's browser.

    Args:
        app: The next ASGI application.
        hosts: Names of this machine, in lower case; None accepts any name.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, or respond with status 400 or 421."""
        if scope["type"] == "http" and (error := self._check(scope)) is not None:
            await error.response()(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> RequestError | None:
        values = Headers(scope=scope).getlist("host")
        name = host_name(values[0]) if len(values) == 1 else None
        if name is None:
            shown = shorten(", ".join(values))
            return RequestError(400, f"expected one header Host: name[:port], got {shown!r}")
        if self.hosts is not None and name not in self.hosts:
            return RequestError(
                421,
                f"expected a Host header that names this machine, such as localhost, got "
                f"{shorten(name)!r}",
            )
        return None


def host_name(host: str) -> str | None:
    """Return the name or address in a Host header, in lower case; None if it is malformed."""
    match = _HOST.fullmatch(host.lower())
    if match is None or not 1 <= int(match["port"] or 1) <= 65535:
        return None
    if match["address"] is None:
        return match["name"]
    try:
        return str(ipaddress.IPv6Address(match["address"]))
    except ValueError:
        return None


class BodyLimit:
    """Refuse bodies that are too long without receiving them in full.

    Args:
        app: The next ASGI application.
        max_body: Maximum size of a body, in bytes.
        max_bytes: Maximum size of all bodies that are arriving or in progress, in bytes.
    """

    def __init__(self, app: ASGIApp, max_body: int, max_bytes: int) -> None:
        self.app = app
        self.max_body = max_body
        self.max_bytes = max_bytes
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request; receiving more than the limit of its body raises `RequestError`."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        content_length = Headers(scope=scope).get("content-length", "")
        # A body that is announced as too long is not received at all.
        announced = int(content_length) if content_length.isdecimal() else 0
        received = 0

        async def receive_within_limits() -> Message:
            nonlocal received
            if announced <= self.max_body:
                message = await receive()
                received += len(message.get("body", b""))
                self._bytes += len(message.get("body", b""))
                if self._bytes > self.max_bytes:
                    raise overloaded(
                        f"the requests in progress have more than {self.max_bytes:,} bytes"
                    )
                if received <= self.max_body:
                    return message
            raise RequestError(413, f"the body is longer than {self.max_body:,} bytes")

        try:
            await self.app(scope, receive_within_limits, send)
        finally:
            self._bytes -= received
