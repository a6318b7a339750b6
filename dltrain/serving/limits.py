"""Limits on the size, the number and the duration of requests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of one request, and of all requests together.

    Attributes:
        max_body: Maximum size of a request's body, in bytes.
        max_items: Maximum number of images, rows or texts in a request.
        max_pixels: Maximum number of pixels of an image, before it is resized.
        max_request_pixels: Maximum number of pixels of all images of a request together.
        max_characters: Maximum length of a text, in characters.
        max_requests: Maximum number of concurrent requests, each counted from the arrival of its
            last byte; further ones receive status 503.
        max_connections: Maximum number of open connections; further ones receive status 503.
        max_batch: Maximum number of items in a batch.
        wait_seconds: Time for which the first item of a batch waits for requests that are being
            parsed.
        header_seconds: Maximum time for the headers of a request to arrive.
        read_seconds: Maximum time for the body of a request to arrive.
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
"""The default limits."""
