"""Incidents: what is wrong with the database, logged once at its beginning and once at its end.

The committer finds out when a transaction fails, and the health monitor when a probe asks. Each of
them may see the end at another time.
"""

from __future__ import annotations

import logging
import threading

from uniqueid.logs import Event

log = logging.getLogger(__name__)


class Incident:
    """One kind of incident: an error line with its first report, a warning when it is resolved.

    Any thread calls it; one lock guards the reporters and keeps the lines in their order.

    :param begun: the event at the beginning, which has the cause as a field.
    :param resolved: the event at the end.
    """

    def __init__(self, begun: str, resolved: str) -> None:
        self._begun = begun
        self._resolved = resolved
        self._reporters: set[str] = set()
        self._lock = threading.Lock()

    def report(self, reporter: str, cause: str, unexpected: Exception | None = None) -> None:
        """Report it, for the first time or again.

        :param unexpected: is logged with its traceback.
        """
        with self._lock:
            first = not self._reporters
            self._reporters.add(reporter)
            if first:
                log.error(Event(self._begun, cause=cause), exc_info=unexpected)

    def resolve(self, reporter: str) -> None:
        """Take a report back; the last one resolves the incident."""
        if reporter not in self._reporters:
            return
        with self._lock:
            self._reporters.discard(reporter)
            if not self._reporters:
                log.warning(self._resolved)


class Incidents:
    """The kinds that the committer and the health monitor both report."""

    def __init__(self) -> None:
        self.database = Incident("database unavailable", "database available")
        self.tables = Incident("tables unusable", "tables usable")
        self.fence = Incident("fence unavailable", "fence available")
