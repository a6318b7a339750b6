"""Metrics of a service in the Prometheus text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Metrics of one service, in a registry of their own.

    Attributes:
        in_progress: Gauge of the requests for predictions that are arriving or in progress.
        requests: Number of requests answered.
        predictions: Number of items predicted.
        batches: Number of batches computed.
    """

    def __init__(self) -> None:
        self.requests: int = 0
        self.predictions: int = 0
        self.batches: int = 0
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "dltrain_requests", "Requests answered.", ("path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "dltrain_request_seconds",
            "Time from the headers of a request to the end of its response.",
            ("path",),
            buckets=SECONDS_BUCKETS,
            registry=self._registry,
        )
        self._batch_sizes = Histogram(
            "dltrain_batch_size",
            "Items per batch.",
            buckets=SIZE_BUCKETS,
            registry=self._registry,
        )
        self.in_progress: Gauge = Gauge(
            "dltrain_requests_in_progress",
            "Requests for predictions that are arriving or in progress.",
            registry=self._registry,
        )

    def record_request(self, path: str, status: int, seconds: float) -> None:
        """Record an answered request."""
        self.requests += 1
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def record_batch(self, size: int) -> None:
        """Record a batch that is about to be computed."""
        self.predictions += size
        self.batches += 1
        self._batch_sizes.observe(size)

    def text(self) -> bytes:
        """Return all metrics; the media type is `CONTENT_TYPE`."""
        return generate_latest(self._registry)
