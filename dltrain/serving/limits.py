"""What a service takes, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How much one request, and all of them together, may ask for.

    Attributes:
        max_body: Bytes of a request's body.
        max_items: Pictures, rows or texts in a request.
        max_pixels: Of a picture, as it is sent.
        max_request_pixels: Of all pictures of a request together, as they are sent.
        max_characters: Of a text.
        max_requests: Requests in work at once, each from the arrival of its last byte; more are
            told to come again.
        max_connections: Open connections; more are closed with status 503.
        max_batch: Items that are computed together.
        wait_seconds: How long the first item of a batch waits for requests that are being read.
        header_seconds: How long the headers of a request may take to arrive.
        read_seconds: How long a request's body may take to arrive.
    """

    max_body: int = 10 * 2**20
    max_items: int = 256
    max_pixels: int = 2**24
    max_request_pixels: int = 2**26
    max_characters: int = 10_000
    max_requests: int = 256
    max_connections: int = 512
    max_batch: int = 64
    wait_seconds: float = 0.005
    header_seconds: float = 10.0
    read_seconds: float = 30.0


DEFAULTS = Limits()
"""What is taken where nothing else is asked for."""
