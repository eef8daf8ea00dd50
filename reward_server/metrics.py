"""Prometheus metrics of the service, summed over its worker processes.

With several workers each writes to a file of its own under PROMETHEUS_MULTIPROC_DIR, which `__main__` sets before they
start, and any of them answers for all. Left out: gauges of memory and processor time; node exporters have them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from reward_server.pool import Answer, ScorerPool

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ITEMS = (1, 8, 32, 128, 256, 512)


class Metrics:
    """The metrics of one worker; create one a process.

    `medatron_reward_requests_total{endpoint,code}`, `..._request_seconds{endpoint}`, `..._batch_items{endpoint}`,
    `..._items_total{verifier,status}`, `..._open_requests`, `..._scorer_restarts{reason}`.
    """

    CONTENT_TYPE = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        prefix, registry = "medatron_reward", self._registry
        self._requests = Counter(f"{prefix}_requests", "Requests answered", ("endpoint", "code"), registry=registry)
        self._seconds = Histogram(
            f"{prefix}_request_seconds", "Time to answer", ("endpoint",), buckets=_SECONDS, registry=registry
        )
        self._batch = Histogram(
            f"{prefix}_batch_items", "Items of a request", ("endpoint",), buckets=_ITEMS, registry=registry
        )
        self._items = Counter(f"{prefix}_items", "Items scored", ("verifier", "status"), registry=registry)
        self._open = Gauge(
            f"{prefix}_open_requests", "Requests that wait or run", registry=registry, multiprocess_mode="livesum"
        )
        self._restarts = Gauge(
            f"{prefix}_scorer_restarts",
            "Scoring processes replaced",
            ("reason",),
            registry=registry,
            multiprocess_mode="sum",
        )
        self._pool: ScorerPool | None = None

    def watch(self, pool: ScorerPool) -> None:
        """Takes queue depth and restarts from this pool."""
        self._pool = pool

    def observe(self, endpoint: str, answer: Answer, seconds: float) -> None:
        """Counts one answered request."""
        self._requests.labels(endpoint, str(answer.status)).inc()
        self._seconds.labels(endpoint).observe(seconds)
        self._batch.labels(endpoint).observe(answer.items)
        for verifier, status, count in answer.counts:
            self._items.labels(verifier, status).inc(count)
        self._read_pool()

    def _read_pool(self) -> None:
        if self._pool is not None:
            self._open.set(self._pool.depth)
            for reason, count in self._pool.restarts.items():
                self._restarts.labels(reason).set(count)

    def render(self) -> bytes:
        """Prometheus' text format, over all workers; what waits in another worker is as of its last answer."""
        # How much waits is of interest above all when nothing is answered any more.
        self._read_pool()
        if os.environ.get(DIRECTORY_VARIABLE):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
            return generate_latest(registry)
        return generate_latest(self._registry)
