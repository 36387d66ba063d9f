"""Transactions of uncontended requests, in the threads of their callers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sized

from uniqueid.allocation.availability import DatabaseAvailability
from uniqueid.allocation.executor import BatchExecutor
from uniqueid.allocation.request_queue import RequestQueue
from uniqueid.allocation.requests import PendingRequest
from uniqueid.errors import UniqueIDError

log = logging.getLogger(__name__)

MIN_TIMEOUT = 2.0
"""Seconds that a caller has to be ready to wait: a statement may wait for a lock for one second,
and the answer to it takes time."""


class DirectExecutor:
    """Executes the transaction of a request in its caller's thread, while requests come one by one.

    To hand a request over to the committer and back takes as long as the statement itself. The
    transaction is the committer's, with one request and one attempt; where that does not complete
    the request, the committer executes another.

    Any thread calls it. The store lock guards the transaction; the committer, which holds it
    otherwise, enables and disables this object.

    :param callers: all callers that are being served.
    :param timeout: seconds that a caller waits at most.
    """

    def __init__(
        self,
        executor: BatchExecutor,
        store_lock: threading.Lock,
        availability: DatabaseAvailability,
        queue: RequestQueue,
        callers: Sized,
        timeout: float,
        clock: Callable[[], float],
    ) -> None:
        self._executor = executor
        self._store_lock = store_lock
        self._availability = availability
        self._queue = queue
        self._callers = callers
        self._allowed = timeout >= MIN_TIMEOUT
        self._clock = clock
        self._uncontended = False

    def enable(self, uncontended: bool) -> None:
        """Say whether the next request is likely to be the only one.

        The thread that holds the store lock calls it; any thread may call it with False.
        """
        self._uncontended = self._allowed and uncontended

    def try_execute(self, request: PendingRequest) -> bool:
        """Execute a request, if no other is being served; whether it was completed.

        :raises DatabaseUnavailable: when it was not completed before its deadline.
        """
        if not self._uncontended or request.record is not None:
            return False
        # Signals arrive in the main thread, where a KeyboardInterrupt could end a statement.
        if threading.get_ident() == threading.main_thread().ident:
            return False
        if not self._store_lock.acquire(blocking=False):
            return False
        try:
            if not self._uncontended or len(self._queue) or len(self._callers) > 1:
                return False
            self._execute(request)
            if not request.completed:
                self._uncontended = False
        finally:
            self._store_lock.release()
        if not request.completed and self._clock() >= request.deadline:
            request.abandoned = True
            # The committer finds out whether the database answers.
            self._availability.mark_unresponsive()
            self._queue.interrupt()
            raise self._availability.no_response()
        return request.completed

    def _execute(self, request: PendingRequest) -> None:
        self._availability.begin()
        try:
            # The deadline has passed: there is one attempt, and no back-off.
            self._executor.execute([request], deadline=self._clock())
        except UniqueIDError as error:
            log.debug("an uncontended request is left to the committer: %s", error)
        except Exception:
            log.exception("a transaction in its caller's thread failed; it is tried again")
        finally:
            self._availability.end()
