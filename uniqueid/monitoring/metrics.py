"""What the service counts, in Prometheus' terms.

Names follow https://prometheus.io/docs/practices/naming/: base units, `_total` on counters. What
only the committer thread counts is kept in plain numbers, which it alone writes, and what each
request adds to is kept in plain numbers behind one lock; both become samples of Prometheus
when they are read. The library's own counters cost a request five times as much.
"""

from __future__ import annotations

import platform
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from uniqueid import __version__
from uniqueid.errors import MAX_ID
from uniqueid.model import Observer

if TYPE_CHECKING:
    from uniqueid.database.errors import Cause

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MODE_LABELS = 50
"""How many modes have series of their own. Modes are what clients say: the rest share one."""
OTHER = "other"
MAX_MODES = 10_000
"""How many modes are counted apart for the status page; the rest are counted together."""

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the requests' durations."""
COMMIT_SECONDS = (0.0005, *SECONDS)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass
class ModeStats:
    """What one mode got from this process."""

    allocations: int = 0
    ids: int = 0
    next_id: int = 0
    """As of the last allocation here; 0 for what several modes share."""


class Requests:
    """The requests of one route, counted by their status and how long they took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statuses: dict[int, int] = {}
        self._durations = [0] * (len(SECONDS) + 1)
        self._seconds = 0.0

    def answered(self, status: int, seconds: float) -> None:
        """One more."""
        place = bisect_left(SECONDS, seconds)
        with self._lock:
            self._statuses[status] = self._statuses.get(status, 0) + 1
            self._durations[place] += 1
            self._seconds += seconds

    def read(self) -> tuple[dict[int, int], list[int], float]:
        """How many by status; how many took up to each of `SECONDS`, and all; seconds in sum."""
        with self._lock:
            statuses, durations = dict(self._statuses), list(self._durations)
            seconds = self._seconds
        return statuses, list(accumulate(durations)), seconds


@dataclass(frozen=True)
class State:
    """What is read for each scrape, instead of counted when it happens."""

    waiting: int = 0
    reconnects: int = 0
    checks: Mapping[str, bool] = field(default_factory=dict)
    """By name, whether it passes."""
    counters: Mapping[str, int] = field(default_factory=dict)
    """Each mode of the database and its next ID."""
    max_modes: int = 0
    dropped_log_lines: int = 0
    durability_problems: int = 0
    """Variables of the database server with which it can lose a committed transaction."""


class Metrics(Observer):
    """The collectors of one process, in a registry of their own."""

    def __init__(self, database_kind: str = "") -> None:
        # A series with the time of birth beside each counter, which is not needed.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.mode_stats: dict[str, ModeStats] = {}
        """By mode."""
        self._stats_lock = threading.Lock()
        self.state: Callable[[], State] = State
        self._regressions: dict[str, int] = {}
        self._regressions_lock = threading.Lock()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        self.routes: dict[str, Requests] = {}
        """By route, made when the application is."""
        self.refused = counter(
            "uniqueid_refused",
            "Requests for IDs that got none, by the type of the problem document.",
            "type",
        )
        self.transactions = counter("uniqueid_transactions", "Transactions committed.")
        self.batch = Histogram(
            "uniqueid_batch_requests",
            "Requests that shared a transaction.",
            buckets=BATCHES,
            registry=self.registry,
        )
        self.commit_seconds = Histogram(
            "uniqueid_commit_duration_seconds",
            "Seconds that a transaction took, its retries included.",
            buckets=COMMIT_SECONDS,
            registry=self.registry,
        )
        self.retries = counter(
            "uniqueid_transaction_retries", "Transactions tried again, by cause.", "cause"
        )
        self.replays = counter(
            "uniqueid_replays",
            "Requests that were answered with the range of an earlier one with the same key.",
        )
        self.journal_pruned = counter(
            "uniqueid_journal_pruned_rows", "Rows of the journal deleted since their time was over."
        )
        self.fence_writes = counter("uniqueid_fence_writes", "Times the fence file was written.")
        self.fence_errors = counter(
            "uniqueid_fence_write_errors", "Times the fence file could not be written."
        )
        self.fence_gaps = counter(
            "uniqueid_fence_skipped_ids",
            "IDs skipped at the start, since it was not known whether they had been allocated.",
        )
        self._describe_build(database_kind)
        self.registry.register(_Reading(self))

    def _describe_build(self, database_kind: str) -> None:
        build = Gauge(
            "uniqueid_build_info",
            "1, with the release, its Python and the kind of database in the labels.",
            ["version", "python", "database"],
            registry=self.registry,
        )
        build.labels(__version__, platform.python_version(), database_kind).set(1)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)

    def route(self, path: str) -> Requests:
        """Where the requests of a route are counted."""
        return self.routes.setdefault(path, Requests())

    # -- told by the allocator and the store --------------------------------------------------

    def committed(self, requests: int, seconds: float) -> None:
        """A transaction of some requests was committed, after some seconds."""
        self.transactions.inc()
        self.batch.observe(requests)
        self.commit_seconds.observe(seconds)

    def allocated(self, mode: str, requests: int, count: int, next_id: int) -> None:
        """IDs of a mode were allocated to some requests."""
        with self._stats_lock:
            stats = self.mode_stats.get(mode)
            if stats is None:
                if len(self.mode_stats) < MAX_MODES and mode != OTHER:
                    stats = self.mode_stats[mode] = ModeStats()
                else:
                    stats = self.mode_stats.setdefault(OTHER, ModeStats())
            stats.allocations += requests
            stats.ids += count
            # Two threads may come here the other way round.
            stats.next_id = max(stats.next_id, next_id)

    def regressed(self, mode: str) -> None:
        """A counter was found below what was allocated."""
        with self._regressions_lock:
            if mode not in self._regressions and len(self._regressions) >= MODE_LABELS:
                mode = OTHER
            self._regressions[mode] = self._regressions.get(mode, 0) + 1

    def replayed(self, requests: int) -> None:
        """Requests got the range of an earlier one."""
        self.replays.inc(requests)

    def pruned(self, records: int) -> None:
        """Expired rows of the journal were deleted."""
        self.journal_pruned.inc(records)

    def retried(self, cause: Cause) -> None:
        """A transaction is tried again."""
        self.retries.labels(cause.value).inc()

    def fence_written(self) -> None:
        """The fence file was written."""
        self.fence_writes.inc()

    def fence_failed(self) -> None:
        """It could not be."""
        self.fence_errors.inc()

    def fence_skipped(self, ids: int) -> None:
        """IDs of a counter were skipped after a stop that was not clean."""
        self.fence_gaps.inc(ids)

    # -- for those who look -------------------------------------------------------------------

    @property
    def regressions(self) -> Mapping[str, int]:
        """How often each counter was found below what was allocated."""
        with self._regressions_lock:
            return dict(self._regressions)

    def labelled_stats(self) -> dict[str, ModeStats]:
        """Those with series of their own: of the first `MODE_LABELS` modes, and the others in one.

        `mode_stats` keeps the order of first use, so a series never changes its mode.
        """
        labelled: dict[str, ModeStats] = {}
        rest = ModeStats()
        for mode, stats in list(self.mode_stats.items()):
            if mode != OTHER and len(labelled) < MODE_LABELS:
                labelled[mode] = stats
            else:
                rest.allocations += stats.allocations
                rest.ids += stats.ids
        return {**labelled, OTHER: rest} if rest.allocations else labelled

    def next_ids(self, counters: Mapping[str, int]) -> dict[str, int]:
        """The next ID of the modes used here, then of the fullest others, up to `MODE_LABELS`."""
        found = {
            mode: max(stats.next_id, counters.get(mode, 0))
            for mode, stats in self.labelled_stats().items()
            if mode != OTHER
        }
        for mode in sorted(counters, key=counters.__getitem__, reverse=True):
            if len(found) >= MODE_LABELS:
                break
            if mode != OTHER:
                found.setdefault(mode, counters[mode])
        return found


class _Reading(Collector):
    """Puts what is kept in plain numbers, or elsewhere, into Prometheus' words."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        state = self._metrics.state()
        yield from self._requests()
        yield from self._mode_stats()
        yield from self._counters(state)
        yield from self._database(state)

    def _requests(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "uniqueid_http_requests",
            "Requests answered, by route and status.",
            labels=["route", "status"],
        )
        request_seconds = HistogramMetricFamily(
            "uniqueid_http_request_duration_seconds",
            "Seconds from a request's arrival in the application to its answer, by route.",
            labels=["route"],
        )
        for path, route in self._metrics.routes.items():
            statuses, durations, seconds = route.read()
            for status, number in statuses.items():
                requests.add_metric([path, str(status)], number)
            bounds = [*map(str, SECONDS), "+Inf"]
            request_seconds.add_metric([path], list(zip(bounds, durations, strict=True)), seconds)
        return [requests, request_seconds]

    def _mode_stats(self) -> Iterable[Metric]:
        allocations = CounterMetricFamily(
            "uniqueid_allocations", "Requests for IDs that were met, by mode.", labels=["mode"]
        )
        ids = CounterMetricFamily("uniqueid_ids", "IDs allocated, by mode.", labels=["mode"])
        for mode, stats in self._metrics.labelled_stats().items():
            allocations.add_metric([mode], stats.allocations)
            ids.add_metric([mode], stats.ids)
        return [allocations, ids]

    def _counters(self, state: State) -> Iterable[Metric]:
        next_id = GaugeMetricFamily(
            "uniqueid_next_id",
            "The next ID of a mode, by the database and by the last allocation here.",
            labels=["mode"],
        )
        used = GaugeMetricFamily(
            "uniqueid_space_used_ratio",
            "The share of a mode's 63-bit space that is used, from 0 to 1.",
            labels=["mode"],
        )
        for mode, value in self._metrics.next_ids(state.counters).items():
            next_id.add_metric([mode], value)
            used.add_metric([mode], (value - 1) / MAX_ID)
        yield next_id
        yield used
        yield GaugeMetricFamily(
            "uniqueid_modes", "Counters that there are in the database.", len(state.counters)
        )
        yield GaugeMetricFamily(
            "uniqueid_max_modes", "Counters up to which requests create new ones.", state.max_modes
        )

    def _database(self, state: State) -> Iterable[Metric]:
        regressions = CounterMetricFamily(
            "uniqueid_counter_regressions",
            "Times that a counter in the database was found below what was allocated, by mode.",
            labels=["mode"],
        )
        for mode, times in self._metrics.regressions.items():
            regressions.add_metric([mode], times)
        yield regressions
        yield CounterMetricFamily(
            "uniqueid_database_reconnects",
            "Connections to the database that took the place of a lost one.",
            state.reconnects,
        )
        yield GaugeMetricFamily(
            "uniqueid_queue_requests", "Requests that wait for a transaction.", state.waiting
        )
        yield CounterMetricFamily(
            "uniqueid_log_lines_dropped",
            "Log lines that standard error did not take at once.",
            state.dropped_log_lines,
        )
        yield GaugeMetricFamily(
            "uniqueid_durability_problems",
            "Variables of the database server with which it can lose a committed transaction.",
            state.durability_problems,
        )
        ok = GaugeMetricFamily(
            "uniqueid_check_ok", "1 where a check of /readyz passes, else 0.", labels=["check"]
        )
        for name, passes in state.checks.items():
            ok.add_metric([name], passes)
        yield ok
        yield GaugeMetricFamily(
            "uniqueid_ready", "1 if all checks of /readyz pass, else 0.", all(state.checks.values())
        )
