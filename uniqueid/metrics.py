"""What the service counts, in Prometheus' terms."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from uniqueid import __version__

if TYPE_CHECKING:
    from uniqueid.database_errors import Cause

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# One series a mode, and modes are what clients say: the rest share one.
_MAX_MODE_LABELS = 50
_OTHER = "other"


class Metrics:
    """The collectors of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._modes: set[str] = set()
        self._modes_lock = threading.Lock()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        self.requests = counter(
            "uniqueid_http_requests", "Requests answered, by route and status.", "route", "status"
        )
        self.ids = counter("uniqueid_ids", "IDs handed out, by mode.", "mode")
        self.next_id = Gauge(
            "uniqueid_next_id",
            "The next ID of a mode, as of the last allocation here.",
            ["mode"],
            registry=self.registry,
        )
        self.transactions = counter("uniqueid_transactions", "Transactions committed.")
        self.batch = Histogram(
            "uniqueid_batch_requests",
            "Requests that shared a transaction.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
            registry=self.registry,
        )
        self.commit_seconds = Histogram(
            "uniqueid_commit_seconds",
            "Seconds that a transaction took, its retries included.",
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
            registry=self.registry,
        )
        self.retries = counter(
            "uniqueid_transaction_retries", "Transactions tried again, by cause.", "cause"
        )
        self.regressions = counter(
            "uniqueid_counter_regressions",
            "Times that a counter in the database was found below what was handed out, by mode.",
            "mode",
        )
        build = Gauge(
            "uniqueid_build_info", "The release that runs.", ["version"], registry=self.registry
        )
        build.labels(__version__).set(1)

    def watch_queue(self, waiting: Callable[[], float]) -> None:
        """Read the number of waiting requests from a function when the metrics are read."""
        gauge = Gauge(
            "uniqueid_queue_requests",
            "Requests that wait for a transaction.",
            registry=self.registry,
        )
        gauge.set_function(waiting)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)

    # -- told by the allocator and the store --------------------------------------------------

    def committed(self, requests: int, seconds: float) -> None:
        """A transaction with so many requests in it was committed after so many seconds."""
        self.transactions.inc()
        self.batch.observe(requests)
        self.commit_seconds.observe(seconds)

    def handed_out(self, mode: str, count: int, next_id: int) -> None:
        """So many IDs of a mode went out."""
        label = self._label(mode)
        self.ids.labels(label).inc(count)
        if label != _OTHER:
            self.next_id.labels(label).set(next_id)

    def regressed(self, mode: str) -> None:
        """A counter was found below what was handed out of it."""
        self.regressions.labels(self._label(mode)).inc()

    def retried(self, cause: Cause) -> None:
        """A transaction is tried again."""
        self.retries.labels(cause.value).inc()

    def _label(self, mode: str) -> str:
        if mode in self._modes:
            return mode
        with self._modes_lock:
            if len(self._modes) < _MAX_MODE_LABELS:
                self._modes.add(mode)
                return mode
        return _OTHER
