"""Connections: how many there may be, and how long a request may take to arrive on one."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from dltrain.serving.limits import Limits
from dltrain.serving.problems import Problem

LINGER_SECONDS = 5.0
"""Time for the rest of a body whose request was refused, so that the client reads the refusal."""


class Connection(H11Protocol):
    """An HTTP/1.1 connection that is closed when a request takes too long to arrive.

    Uvicorn itself waits for ever for the end of a request's headers, and for a body that the
    application does not read.

    Attributes:
        limits: `max_connections`, `header_seconds` and `read_seconds` are taken from it.
    """

    limits: Limits

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._arriving: Any = None
        self._deadline: asyncio.TimerHandle | None = None
        self._has_head_bytes = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a request, or refuse one connection too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(503, f"{self.limits.max_connections} connections are open; come again")
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Handle what has arrived."""
        self._has_head_bytes |= self.conn.their_state is h11.IDLE
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of the one that was answered."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        super().connection_lost(exc)
        self._stop_watching()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP request, in JSON like every other refusal."""
        self._refuse(400, msg)

    def _watch(self) -> None:
        """Keep one deadline for the headers of a request, and one for its body.

        Bytes that arrive do not move it: a client that sends one at a time gains nothing.
        """
        state = self.conn.their_state
        arriving = (state, self.cycle) if state in (h11.IDLE, h11.SEND_BODY) else None
        if arriving == self._arriving:
            return
        self._stop_watching()
        if state is not h11.IDLE:
            self._has_head_bytes = False
        if arriving is not None and not self.transport.is_closing():
            seconds = self.limits.header_seconds
            if state is h11.SEND_BODY:
                seconds = self.limits.read_seconds + LINGER_SECONDS
            self._arriving = arriving
            self._deadline = self.loop.call_later(seconds, self._too_late)

    def _stop_watching(self) -> None:
        self._arriving = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        if self._has_head_bytes and self.conn.their_state is h11.IDLE:
            seconds = f"{self.limits.header_seconds:g} s"
            self._refuse(408, f"the headers of the request took longer than {seconds} to arrive")
        else:
            self.transport.abort()

    def _refuse(self, status: int, message: str) -> None:
        """Answer without the application, and close."""
        body = json.dumps({"errors": [asdict(Problem(message))]}).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        reason = HTTPStatus(status).phrase.encode()
        for event in (
            h11.Response(status_code=status, headers=headers, reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def connection_class(limits: Limits) -> type[Connection]:
    """Return the class of a service's connections, as uvicorn takes it."""
    return type("Connection", (Connection,), {"limits": limits})
