"""When expired records of the journal are deleted."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

from uniqueid.allocation.availability import DatabaseAvailability
from uniqueid.errors import DatabaseUnavailable
from uniqueid.model import Observer

log = logging.getLogger(__name__)

INTERVAL = 60.0
"""Seconds between two searches for expired records, after one that found none."""
SHARE = 0.1
"""Of the committer's time that it spends on deleting, while there are expired records."""


class Pruner:
    """Deletes some expired records between two transactions. The committer alone calls it.

    :param prune: deletes some records and returns their number; None where there is no journal.
    """

    def __init__(
        self,
        prune: Callable[[], int] | None,
        availability: DatabaseAvailability,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._prune = prune
        self._availability = availability
        self._observer = observer
        self._clock = clock
        self._due_at = clock() + random.uniform(0, INTERVAL)

    def due_in(self, now: float) -> float | None:
        """Seconds until it has to be run; None for never."""
        return None if self._prune is None else self._due_at - now

    def run_if_due(self) -> None:
        """Delete some records if it is time. A failure is logged, and tried again later."""
        since = self._clock()
        if self._prune is None or since < self._due_at:
            return
        self._availability.begin()
        pruned = 0
        try:
            pruned = self._prune()
        except DatabaseUnavailable as error:
            log.warning("old entries of the journal were not deleted: %s", error.cause)
        except Exception:
            log.exception("old entries of the journal were not deleted")
        finally:
            self._availability.end()
        now = self._clock()
        if pruned:
            self._observer.pruned(pruned)
            self._due_at = now + (now - since) / SHARE
        else:
            self._due_at = now + random.uniform(0.5, 1) * INTERVAL
