"""What is wrong with the database, told to the log once, whoever finds it first.

Two threads find out by themselves: the committer, when a transaction fails, and the watch, when a
probe asks. Each of them may see the end at another time.
"""

from __future__ import annotations

import logging
import threading

log = logging.getLogger(__name__)


class Trouble:
    """One kind of trouble: a line when the first finds it, and one when the last sees its end.

    :param begun: what is said at the beginning; `%s` is the cause.
    :param over: what is said at the end.
    """

    def __init__(self, begun: str, over: str) -> None:
        self._begun = begun
        self._over = over
        self._found_by: set[str] = set()
        self._lock = threading.Lock()

    def found(self, by: str, cause: str, unexpected: Exception | None = None) -> None:
        """Somebody met it, for the first time or again; the log has an unexpected error whole."""
        with self._lock:
            first = not self._found_by
            self._found_by.add(by)
            # Within the lock, so that the lines are in the order of what they tell.
            if first:
                log.error(self._begun, cause, exc_info=unexpected)

    def ended(self, by: str) -> None:
        """Somebody saw that all is well; who had not met it has nothing to say."""
        if by not in self._found_by:
            return
        with self._lock:
            self._found_by.discard(by)
            if not self._found_by:
                log.warning(self._over)


class Troubles:
    """The kinds that the committer and the watch both meet."""

    def __init__(self) -> None:
        self.database = Trouble(
            "the database is not available: %s; requests for IDs are answered with 503, and served"
            " by themselves when it answers again",
            "the database answers again",
        )
        self.tables = Trouble("the tables do not fit: %s", "the tables fit again")
        self.fence = Trouble(
            "%s; requests for IDs are answered with 503 until then", "the fence can be used again"
        )
