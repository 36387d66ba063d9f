"""The comparison of counters with their high-water marks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from uniqueid.allocation.high_water_marks import HighWaterMarks
from uniqueid.errors import CounterRegressed, UniqueIDError
from uniqueid.logs import Event
from uniqueid.model import CounterStore, CounterUpdate, Observer

log = logging.getLogger(__name__)

POLL_INTERVAL = 1.0
"""Seconds between two comparisons while requests are rejected."""


class RegressionGuard:
    """Finds counters below their high-water marks, and raises them or has requests rejected.

    The thread that holds the store lock calls it. `regressed` is replaced as a whole, so that any
    thread may read it.

    :param repair: raise such a counter (``on_regression = advance``), or reject every request
        until an operator has done so.
    :param timeout: seconds for raising counters.
    :param persistent: whether the store brings marks along from an earlier process (the fence):
        then counters are compared before the first allocation as well.
    """

    def __init__(
        self,
        store: CounterStore,
        marks: HighWaterMarks,
        *,
        repair: bool,
        timeout: float,
        persistent: bool,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._marks = marks
        self.repair = repair
        self._timeout = timeout
        self.persistent = persistent
        self._observer = observer
        self._clock = clock
        self._checked_at = 0.0
        self._compared_session = 0
        self.regressed: Mapping[str, CounterRegressed] = {}
        """The counters because of which requests are rejected."""

    def raise_if_regressed(self) -> None:
        """Reject requests while a counter is regressed.

        :raises CounterRegressed: for the first of them.
        """
        for error in self.regressed.values():
            # It is raised for each batch; each starts a traceback of its own.
            raise error.with_traceback(None)

    def check_new_session(self) -> None:
        """Compare all counters with their high-water marks once after each new database session.

        Invariant: no request is completed on a session before that. The session may lead to another
        server, or to one that was restored.
        """
        while self._compared_session != self._store.connections:
            # Read first: the comparison may need yet another session, which is compared as well.
            session = self._store.connections
            self.check_all()
            self._compared_session = session

    def check_all(self) -> None:
        """Compare every counter, not only those that are asked for."""
        low = self._find_regressed() if self._marks or self.persistent else {}
        if not low:
            return
        if not self.repair:
            for error in low.values():
                self.reject(error)
            return
        deadline = self._clock() + self._timeout
        updates = self._store.advance(
            dict.fromkeys(low, 0), self._marks, repair=True, deadline=deadline
        )
        # A counter that could not be raised now is raised and reported by its next allocation.
        for update in updates.values():
            if not isinstance(update, UniqueIDError) and update.regressed:
                self.report(update)

    def due_in(self) -> float | None:
        """Seconds until `recheck` has to be called; None for never."""
        return POLL_INTERVAL if self.regressed else None

    def recheck(self) -> None:
        """See whether an operator has advanced the regressed counters, once a second."""
        now = self._clock()
        if not self.regressed or now - self._checked_at < POLL_INTERVAL:
            return
        self._checked_at = now
        low = self._find_regressed()
        for error in low.values():
            self.reject(error)
        self.regressed = low
        if not low:
            log.warning("counter regression resolved")

    def report(self, update: CounterUpdate) -> None:
        """Report a counter that was raised."""
        self._log(update.counter, update.database_next_id, update.first, "raised")

    def reject(self, error: CounterRegressed) -> None:
        """Have requests rejected because of a counter."""
        if error.mode not in self.regressed:
            self._log(error.mode, error.found, error.expected, "rejected")
        self.regressed = {**self.regressed, error.mode: error}
        # A record of the journal may prove more than this process has allocated.
        self._marks.raise_to(error.mode, error.expected)

    def _log(self, counter: str, found: int, expected: int, action: str) -> None:
        log.error(
            Event(
                "counter regression detected",
                mode=counter,
                database_next_id=found,
                expected=expected,
                action=action,
            )
        )
        self._observer.regressed(counter)

    def _find_regressed(self) -> dict[str, CounterRegressed]:
        return CounterRegressed.among(
            self._store.counters(), self._marks.snapshot(), self._store.find
        )
