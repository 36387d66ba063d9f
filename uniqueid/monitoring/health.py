"""Health checks of the database, apart from allocation.

One thread with a connection of its own runs the checks, at most once a second. A caller waits for a
result for at most a second: a database that hangs blocks this thread and no other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from uniqueid.errors import (
    ConnectionLimitReached,
    CounterRegressed,
    DatabaseUnavailable,
    SchemaError,
    Unavailable,
    UniqueIDError,
)
from uniqueid.model import CounterStore
from uniqueid.monitoring.incidents import Incidents
from uniqueid.runtime import threads

log = logging.getLogger(__name__)

MAX_AGE = 1.0
"""Seconds for which a result is used again, so that probes cannot load the database."""
TIMEOUT = 1.0
"""Seconds after which a check without a result has failed."""
POLL_INTERVAL = 1.0
"""Seconds between two checks while the last one failed, without a caller."""

_REPORTER = "health monitor"


@dataclass(frozen=True)
class HealthResult:
    """What a check found."""

    database: str | None = None
    """Why the database cannot be used; None when it can."""
    schema: str | None = None
    """What is wrong with its tables, and the command that repairs it."""
    counters: Mapping[str, int] = field(default_factory=dict)
    """Each mode and its next ID."""
    regressed: Mapping[str, CounterRegressed] = field(default_factory=dict)
    """The counters below their high-water marks."""


class HealthCheck:
    """One check of the database. The health monitor's thread calls it.

    :param store: for this thread alone; the committer has another.
    :param require: raises SchemaError where the tables are not what this release needs.
    :param high_water_marks: counter to the lowest ID that may still be allocated, as of now.
    :param incidents: reports to the log, shared with the committer.
    :param close_after: whether to close the connection after a check: SQLite's files are not held
        open, and the allocator gets the connection where there may be only one.
    """

    def __init__(
        self,
        store: CounterStore,
        require: Callable[[], object],
        high_water_marks: Callable[[], Mapping[str, int]] = dict,
        *,
        close_after: Callable[[], bool] = lambda: False,
        incidents: Incidents | None = None,
    ) -> None:
        self._store = store
        self._require = require
        self._high_water_marks = high_water_marks
        self._close_after = close_after
        self._incidents = incidents or Incidents()

    def run(self) -> HealthResult:
        """Check the database; no error is raised."""
        incidents = self._incidents
        try:
            # Before the counters: what is allocated meanwhile is in the database already.
            marks = self._high_water_marks()
            # First, since without tables no transaction is executed.
            self._require()
            self._store.ping()
            counters = self._store.counters()
            regressed = CounterRegressed.among(counters, marks, self._store.find)
        except SchemaError as error:
            incidents.database.resolve(_REPORTER)
            incidents.tables.report(_REPORTER, str(error))
            return HealthResult(schema=str(error))
        except ConnectionLimitReached as error:
            # The allocator has a connection, or reports why it gets none.
            log.debug("no connection for a health check: %s", error.cause)
            incidents.database.resolve(_REPORTER)
            return HealthResult()
        except DatabaseUnavailable as error:
            self._store.disconnect()
            incidents.database.report(_REPORTER, error.cause)
            return HealthResult(database=error.cause)
        except Exception as error:
            cause = error.__class__.__name__
            incidents.database.report(_REPORTER, cause, error)
            return HealthResult(database=cause)
        finally:
            if self._close_after():
                self._store.disconnect()
        incidents.database.resolve(_REPORTER)
        incidents.tables.resolve(_REPORTER)
        return HealthResult(counters=counters, regressed=regressed)

    def close(self) -> None:
        """Close the connection."""
        self._store.disconnect()


class HealthMonitor:
    """Runs a check in a thread of its own and keeps its result for a moment.

    Any thread calls it; one condition guards the state.

    :param check: used by that thread alone.
    """

    def __init__(
        self,
        check: HealthCheck,
        *,
        max_age: float = MAX_AGE,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._check = check
        self._max_age = max_age
        self._timeout = timeout
        self._clock = clock
        self._changed = threading.Condition()
        self._requested_at: float | None = None
        self._result: HealthResult | None = None
        self._result_at = 0.0
        self._closing = False
        self._thread: threading.Thread | None = None

    def last_result(self) -> HealthResult:
        """The last result, at once; an old one starts another check."""
        with self._changed:
            self._request()
            requested_at = self._requested_at
            if requested_at is not None and self._clock() - requested_at >= self._timeout:
                return self._timed_out(requested_at)
            return self._result or HealthResult()

    def check(self) -> HealthResult:
        """A result that is not older than `max_age`, within `timeout` seconds."""
        with self._changed:
            self._request()
            requested_at = self._requested_at
            if requested_at is not None:
                self._changed.wait_for(
                    lambda: self._requested_at != requested_at or self._closing,
                    max(0, requested_at + self._timeout - self._clock()),
                )
                if self._requested_at == requested_at:
                    return self._timed_out(requested_at)
            assert self._result is not None
            return self._result

    def close(self, timeout: float | None = None) -> None:
        """End the thread and its connection."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)

    def _timed_out(self, since: float) -> HealthResult:
        waited = self._clock() - since
        reason = f"it has not answered for {waited:.1f} seconds"
        return HealthResult(reason, counters=self._result.counters if self._result else {})

    def _request(self) -> None:
        """Request a check, unless there is a fresh result or one is running."""
        now = self._clock()
        fresh = self._result is not None and now - self._result_at < self._max_age
        if fresh or self._requested_at is not None or self._closing:
            return
        self._requested_at = now
        if self._thread is None:
            # With the first request: a server may fork before.
            self._thread = threads.start(self._run, "watch")
        self._changed.notify_all()

    def _run(self) -> None:
        while self._wait_for_request():
            result = self._check.run()
            with self._changed:
                self._result, self._result_at = result, self._clock()
                self._requested_at = None
                self._changed.notify_all()
        self._check.close()

    def _wait_for_request(self) -> bool:
        """Wait until a check is due; False at the end."""
        with self._changed:
            result = self._result
            failed = result is not None and (result.database or result.schema)
            # After a failure it checks without a request, so that the end of it is logged.
            self._changed.wait_for(
                lambda: self._requested_at is not None or self._closing,
                POLL_INTERVAL if failed else None,
            )
            if self._requested_at is None:
                self._requested_at = self._clock()
            return not self._closing


class Checked(Protocol):
    """The part of the allocator that is needed here."""

    @property
    def alive(self) -> bool: ...
    @property
    def unavailable(self) -> Unavailable | None: ...
    @property
    def regressed(self) -> Mapping[str, CounterRegressed]: ...


Checks = Mapping[str, Callable[[], str | None]]
"""By name, what `/readyz` asks; the answer is what is wrong, or None."""


def checks(
    allocator: Checked,
    check: Callable[[], HealthResult],
    *,
    repair: bool,
    fence: Callable[[], str | None] | None = None,
) -> Checks:
    """What `/readyz` asks.

    :param check: the last result: `HealthMonitor.check` or `HealthMonitor.last_result`.
    :param repair: with ``on_regression = advance`` a counter that regressed is raised by its next
        allocation, and does not make the service unready.
    :param fence: what is wrong with the fence, where there is one.
    """

    def database() -> str | None:
        error = allocator.unavailable
        return error.cause if isinstance(error, DatabaseUnavailable) else check().database

    def tables() -> str | None:
        return check().schema

    def committer() -> str | None:
        return None if allocator.alive else "the committer thread has ended: restart the service"

    def counters() -> str | None:
        regressed: dict[str, UniqueIDError] = dict(allocator.regressed)
        if not repair:
            regressed |= check().regressed
        return "; ".join(str(error) for error in regressed.values()) or None

    found = {"database": database, "schema": tables, "committer": committer, "counters": counters}
    return found if fence is None else {**found, "fence": fence}
