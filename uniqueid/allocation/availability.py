"""Whether the database can be used, as far as the allocator has seen."""

from __future__ import annotations

import threading
from collections.abc import Callable

from uniqueid.errors import DatabaseUnavailable, Unavailable
from uniqueid.monitoring.incidents import Incidents

POLL_INTERVAL = 1.0
"""Seconds between two attempts to reach a database that is unavailable."""

_REPORTER = "committer"


class RunningStatement:
    """A use of the store that has not ended, begun at a time of the clock."""

    __slots__ = ("since",)

    def __init__(self, since: float) -> None:
        self.since = since


class DatabaseAvailability:
    """Why requests are rejected at once, if they are; and for how long a statement is running.

    The thread that holds the store lock writes `_running`, and with it `_error` after a failure;
    a caller writes `_stalled` at its deadline. Each is one reference, replaced as a whole, so that
    any thread may read them without a lock.

    :param incidents: reports to the log, shared with the health monitor.
    :param timeout: seconds that a caller waits at most.
    """

    def __init__(self, incidents: Incidents, timeout: float, clock: Callable[[], float]) -> None:
        self._incidents = incidents
        self._timeout = timeout
        self._clock = clock
        self._error: Unavailable | None = None
        self._running: RunningStatement | None = None
        self._stalled: RunningStatement | None = None

    def begin(self) -> None:
        """A use of the store begins, in the thread that holds the store lock."""
        self._running = RunningStatement(self._clock())

    def end(self) -> None:
        """It ended."""
        self._running = None

    def running_for(self, now: float) -> float:
        """Seconds since the running statement began; 0 when there is none."""
        running = self._running
        return 0.0 if running is None else now - running.since

    @property
    def error(self) -> Unavailable | None:
        """Why requests are rejected at once; None while they are served."""
        error = self._error
        if error is not None:
            # One for each caller, with a traceback of its own.
            return type(error)(error.cause, tables=error.tables)
        if self._stalled is not None and self._stalled is self._running:
            return self.no_response()
        return None

    def no_response(self) -> DatabaseUnavailable:
        """The error of a caller whose deadline has passed."""
        return DatabaseUnavailable(f"it did not answer within {self._timeout:g} seconds")

    def mark_stalled(self) -> bool:
        """Reject requests until the running statement ends, if a caller's whole time has passed.

        :returns: whether that is so.
        """
        running = self._running
        if running is None or self._clock() - running.since < 0.9 * self._timeout:
            return False
        self._stalled = running
        return True

    def mark_unresponsive(self) -> None:
        """Reject requests until the committer has tried the database."""
        self._error = self.no_response()

    def mark_unavailable(self, error: Unavailable) -> None:
        """Reject requests with an error, and report it."""
        self._error = error
        self.report(error)

    def report(self, error: Unavailable) -> None:
        """Report an error, and serve other requests."""
        if not isinstance(error, DatabaseUnavailable):
            self._incidents.fence.report(_REPORTER, str(error))
            return
        incident = self._incidents.tables if error.tables else self._incidents.database
        incident.report(_REPORTER, error.cause)

    def mark_available(self) -> None:
        """A transaction was committed: what was reported has ended."""
        self._incidents.fence.resolve(_REPORTER)
        self._incidents.database.resolve(_REPORTER)
        self._incidents.tables.resolve(_REPORTER)

    def wait_until_available(self, ping: Callable[[], None], stop: threading.Event) -> None:
        """Ping the store until it answers, and serve requests again.

        :param stop: ends the wait.
        """
        failed = False
        while self._error is not None and not stop.is_set():
            try:
                ping()
            except Unavailable as error:
                self.mark_unavailable(error)
                failed = True
                stop.wait(POLL_INTERVAL)
            else:
                if failed:
                    self.mark_available()
                # Else it answers although a transaction failed, as with a full disk: the next
                # transaction shows whether that has ended.
                break
        self._error = None
