"""Limits on connections: their number, and the time in which a request must arrive."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from dltrain.serving.limits import Limits
from dltrain.serving.problems import RequestError

LINGER_SECONDS = 5.0
"""Time for the rest of a refused request's body, so that the client can read the response."""


class Connection(H11Protocol):
    """An HTTP/1.1 connection that is closed when a request takes too long to arrive.

    Uvicorn alone waits without limit for the end of a request's headers, and for a body that the
    application does not read.

    Attributes:
        limits: Provides `max_connections`, `header_seconds` and `read_seconds`.
    """

    limits: Limits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._awaited: Any = None
        self._deadline: asyncio.TimerHandle | None = None
        self._has_head_bytes = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a request, or refuse the connection where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(503, f"{self.limits.max_connections} connections are open; retry later")
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Handle received bytes."""
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
        """Respond to malformed HTTP in JSON, as to every other refused request."""
        self._refuse(400, msg)

    def _watch(self) -> None:
        """Keep one deadline for the headers of a request, and one for its body.

        Received bytes do not move a deadline, so a client cannot extend it byte by byte.
        """
        state = self.conn.their_state
        awaited = (state, self.cycle) if state in (h11.IDLE, h11.SEND_BODY) else None
        if awaited == self._awaited:
            return
        self._stop_watching()
        if state is not h11.IDLE:
            self._has_head_bytes = False
        if awaited is not None and not self.transport.is_closing():
            seconds = self.limits.header_seconds
            if state is h11.SEND_BODY:
                seconds = self.limits.read_seconds + LINGER_SECONDS
            self._awaited = awaited
            self._deadline = self.loop.call_later(seconds, self._on_deadline)

    def _stop_watching(self) -> None:
        self._awaited = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        if self._has_head_bytes and self.conn.their_state is h11.IDLE:
            seconds = f"{self.limits.header_seconds:g} s"
            self._refuse(408, f"the headers of the request took longer than {seconds} to arrive")
        else:
            self.transport.abort()

    def _refuse(self, status: int, message: str) -> None:
        """Respond without the application, and close the connection."""
        response = RequestError(status, message, {"Connection": "close"}).response()
        for event in (
            h11.Response(
                status_code=status,
                headers=response.raw_headers,
                reason=HTTPStatus(status).phrase.encode(),
            ),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def connection_class(limits: Limits) -> type[Connection]:
    """Return the protocol class of a service's connections, for uvicorn."""
    return type("Connection", (Connection,), {"limits": limits})
