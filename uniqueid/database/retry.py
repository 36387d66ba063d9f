"""When a transaction that has failed is attempted again."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

from uniqueid.database.errors import Cause, explain, unavailable

log = logging.getLogger(__name__)

# The first wait after a conflict, and the longest: full jitter (AWS Architecture Blog,
# "Exponential Backoff And Jitter") between 0 and the doubled step. A lost connection waits longer.
_BACKOFF_START = 0.005
_BACKOFF_CONFLICT = 0.1
_BACKOFF_CONNECTION = 1.0


class Retry:
    """Waits between the attempts of a transaction, up to its deadline.

    :param on_retry: called with the cause of each failed attempt after which another is of use.
    :param clock: of the deadlines.
    :param sleep: waits.
    """

    def __init__(
        self,
        on_retry: Callable[[Cause], None],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self.on_retry = on_retry
        self.sleep = sleep
        self._clock = clock

    def wait(self, attempt: int, cause: Cause, deadline: float, error: Exception) -> None:
        """Wait before another attempt.

        :param attempt: how many attempts failed before this one.
        :raises DatabaseUnavailable: instead of waiting until the deadline or longer.
        """
        lost = cause is Cause.CONNECTION
        longest = _BACKOFF_CONNECTION if lost else _BACKOFF_CONFLICT
        # A connection that was lost while it was not used is no sign of trouble: no wait at first.
        step = 0 if lost and attempt == 0 else _BACKOFF_START * 2 ** min(attempt, 20)
        wait = random.uniform(0, min(longest, step))
        # Before the deadline is checked: another thread may attempt it again.
        self.on_retry(cause)
        if self._clock() + wait >= deadline:
            raise unavailable(error) from error
        log.debug("transaction retried in %.3f s after %s: %s", wait, cause, explain(error))
        self.sleep(wait)
