"""What the status page shows: the service now, and the last minutes."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources

from uniqueid import __version__
from uniqueid.errors import MAX_ID
from uniqueid.monitoring.metrics import OTHER, SECONDS, Metrics
from uniqueid.runtime import threads

INTERVAL = 2.0
"""Seconds between two samples."""
SAMPLES = 151
"""How many are kept: five minutes."""
_RATE_SAMPLES = 5
"""Over how many intervals the rate of a counter is taken."""
MOST_COUNTERS = 500
"""How many counters the page gets: the fullest, and the busiest of the others."""

FILES: Mapping[str, tuple[str, str]] = {
    "/status/status.css": ("status.css", "text/css; charset=utf-8"),
    "/status/status.js": ("status.js", "text/javascript; charset=utf-8"),
}
"""By path: file and content type."""

HEADERS: Mapping[str, str] = {
    # Nothing but what this service itself sends; no inline script or style.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Of the page and its files."""


def read(name: str) -> bytes:
    """A file of the page."""
    return resources.files(__name__).joinpath(name).read_bytes()


def prefers_html(accept: str) -> bool:
    """Whether an Accept (RFC 9110, 12.5.1) asks for HTML rather than JSON.

    The legacy service always responded with JSON, so a client that accepts both alike gets JSON.
    """
    quality: dict[str, float] = {}
    for item in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in item.split(";"))
        value = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    value = float(parameter[2:])
                except ValueError:
                    value = 0.0
        quality[kind] = value
    html = quality.get("text/html", quality.get("text/*", 0.0))
    for kind in ("application/json", "application/*", "*/*"):
        if kind in quality:
            return html > quality[kind]
    return html > 0


@dataclass(frozen=True)
class Sample:
    """What had been counted at a time."""

    at: float
    """Seconds since 1970."""
    durations: Sequence[float]
    """Requests for IDs answered within each of `SECONDS`, and altogether."""
    transactions: float
    batched: float
    """Requests in these transactions."""
    ids: int
    """IDs allocated, of all modes."""


def quantile(counts: Sequence[float], share: float) -> float | None:
    """Seconds within which a share of requests was answered, from cumulated counts.

    Between two bounds it is interpolated, as Prometheus' `histogram_quantile` does it; None for
    no requests.
    """
    total = counts[-1]
    if total <= 0:
        return None
    rank = share * total
    below, lower = 0.0, 0.0
    for bound, count in zip(SECONDS, counts, strict=False):
        if count >= rank:
            return lower + (bound - lower) * (rank - below) / (count - below)
        below, lower = count, bound
    return SECONDS[-1]


class History:
    """Samples of the metrics, taken by a thread of its own."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._metrics = metrics
        self._interval = interval
        self._clock = clock
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        # Time, and IDs allocated by mode: for the rates alone, since there may be many modes.
        self._ids: deque[tuple[float, dict[str, int]]] = deque(maxlen=_RATE_SAMPLES + 1)
        self._starting = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, once; a process that forks does it after the fork."""
        with self._starting:
            if self._thread is None:
                self.take()
                self._thread = threads.start(self._run, "history")

    def close(self, timeout: float | None = None) -> None:
        """End the thread."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._closing.wait(self._interval):
            self.take()

    def take(self) -> None:
        """Add a sample of now."""
        metrics = self._metrics
        _statuses, durations, _seconds = metrics.route("/getid").read()
        transactions = batched = 0.0
        for family in metrics.batch.collect():
            for sample in family.samples:
                if sample.name.endswith("_count"):
                    transactions = sample.value
                elif sample.name.endswith("_sum"):
                    batched = sample.value
        ids = {mode: stats.ids for mode, stats in list(metrics.mode_stats.items())}
        now = self._clock()
        self._samples.append(Sample(now, durations, transactions, batched, sum(ids.values())))
        self._ids.append((now, ids))

    def document(self) -> dict[str, object]:
        """The plots' data: a value for each interval, the oldest first."""
        samples = list(self._samples)
        columns: dict[str, list[float | None]] = {
            name: [] for name in ("time", "requests", "ids", "p50", "p95", "p99", "batch")
        }
        for before, after in itertools.pairwise(samples):
            seconds = max(after.at - before.at, 0.001)
            pairs = zip(before.durations, after.durations, strict=True)
            counts = [late - early for early, late in pairs]
            transactions = after.transactions - before.transactions
            columns["time"].append(round(after.at, 1))
            columns["requests"].append(round(counts[-1] / seconds, 1))
            columns["ids"].append(round((after.ids - before.ids) / seconds, 1))
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
                found = quantile(counts, share)
                columns[name].append(None if found is None else round(found, 5))
            requests = after.batched - before.batched
            columns["batch"].append(round(requests / transactions, 2) if transactions else None)
        return dict(columns)

    def rates(self) -> dict[str, float]:
        """IDs a second by mode, over the last seconds."""
        samples = list(self._ids)
        if len(samples) < 2:
            return {}
        (begin, first), (end, last) = samples[0], samples[-1]
        seconds = max(end - begin, 0.001)
        return {mode: round((ids - first.get(mode, 0)) / seconds, 1) for mode, ids in last.items()}


class Status:
    """The data of the page.

    :param checks: what `/readyz` asks, answered at once.
    :param database: kind and host of the database, and nothing else of its URL.
    :param durability_problems: what is wrong with the database server's variables.
    :param tokens_required: whether a request for IDs needs a token.
    """

    def __init__(
        self,
        metrics: Metrics,
        checks: Mapping[str, Callable[[], str | None]],
        database: Mapping[str, str],
        durability_problems: Callable[[], Sequence[Mapping[str, str]]] = list,
        *,
        tokens_required: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.history = History(metrics, clock=clock)
        self._tokens_required = tokens_required
        # In Kubernetes the name of the pod.
        self._instance = socket.gethostname()
        self._metrics = metrics
        self._checks = checks
        self._database = database
        self._durability_problems = durability_problems
        self._clock = clock
        self._started = clock()

    def document(self) -> dict[str, object]:
        """What `/status.json` answers; the database is not waited for."""
        self.history.start()
        state = self._metrics.state()
        found = {name: check() for name, check in self._checks.items()}
        now = self._clock()
        return {
            "instance": self._instance,
            "version": __version__,
            "time": _text(now),
            # Two instances of one host seldom start in the same millisecond.
            "started": _text(self._started, "milliseconds"),
            "uptime_seconds": round(now - self._started),
            "database": dict(self._database),
            "ready": not any(found.values()),
            "checks": {name: reason or "ok" for name, reason in found.items()},
            "tokens_required": self._tokens_required,
            "durability_problems": list(self._durability_problems()),
            "waiting": state.waiting,
            "reconnects": state.reconnects,
            "regressions": sum(self._metrics.regressions.values()),
            "counters_total": len(state.counters),
            "counters": self._counters(state.counters),
            "history": self.history.document(),
        }

    def _counters(self, counters: Mapping[str, int]) -> list[dict[str, object]]:
        mode_stats = self._metrics.mode_stats
        rates = self.history.rates()
        next_ids = dict(counters)
        for mode, stats in list(mode_stats.items()):
            if mode != OTHER:
                next_ids[mode] = max(counters.get(mode, 1), stats.next_id)
        fullest = sorted(next_ids, key=next_ids.__getitem__, reverse=True)
        busiest = sorted(fullest, key=lambda mode: rates.get(mode, 0.0), reverse=True)
        modes = dict.fromkeys([*fullest[: MOST_COUNTERS // 2], *busiest])
        shown = []
        for mode in sorted(itertools.islice(modes, MOST_COUNTERS)):
            used_here = mode_stats.get(mode) if mode != OTHER else None
            next_id = next_ids[mode]
            shown.append(
                {
                    "mode": mode,
                    # In digits: JavaScript's numbers are exact up to 2**53 only.
                    "next_id": str(next_id),
                    "ids": used_here.ids if used_here else 0,
                    "allocations": used_here.allocations if used_here else 0,
                    "rate": rates.get(mode, 0.0) if used_here else 0.0,
                    "used": (next_id - 1) / MAX_ID,
                }
            )
        return shown


def _text(seconds: float, precision: str = "seconds") -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=precision).replace("+00:00", "Z")
