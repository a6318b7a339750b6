"""What a service counts, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counts of one service, apart from those of any other in the process.

    Attributes:
        in_progress: Requests for predictions that are arriving or in work.
        requests: How many were answered.
        predictions: How many items were computed.
        batches: In how many batches.
    """

    def __init__(self) -> None:
        self.requests = self.predictions = self.batches = 0
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "dltrain_requests", "Requests answered.", ("path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "dltrain_request_seconds",
            "Time from a request's head to the end of its answer.",
            ("path",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._batch_sizes = Histogram(
            "dltrain_batch_size",
            "Items computed together.",
            buckets=SIZES,
            registry=self._registry,
        )
        self.in_progress = Gauge(
            "dltrain_requests_in_progress",
            "Requests for predictions that are arriving or in work.",
            registry=self._registry,
        )

    def answered(self, path: str, status: int, seconds: float) -> None:
        """A request has been answered."""
        self.requests += 1
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, size: int) -> None:
        """A batch is about to be computed."""
        self.predictions += size
        self.batches += 1
        self._batch_sizes.observe(size)

    def text(self) -> bytes:
        """All of it, as `CONTENT_TYPE`."""
        return generate_latest(self._registry)
