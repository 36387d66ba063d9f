"""Group commit: one thread commits all requests that have arrived in one transaction."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterable

from uniqueid.allocation.availability import DatabaseAvailability
from uniqueid.allocation.direct import DirectExecutor
from uniqueid.allocation.executor import BatchExecutor, Unfinished
from uniqueid.allocation.pruning import Pruner
from uniqueid.allocation.regression import RegressionGuard
from uniqueid.allocation.request_queue import RETRY_INTERVAL, DeferredRequests, RequestQueue
from uniqueid.allocation.requests import Batch, PendingRequest
from uniqueid.errors import (
    Closing,
    CounterRegressed,
    DatabaseUnavailable,
    ModeBusy,
    TransactionRejected,
    Unavailable,
    Unexpected,
)
from uniqueid.model import CounterStore
from uniqueid.runtime import threads

log = logging.getLogger(__name__)

MAX_FAILURES = 16
"""Transactions that fail in succession before all requests fail. To find one bad request among
2**n takes n + 1."""


class Committer:
    """The thread that takes batches from the queue and has them executed.

    Requests that arrive during a transaction share the next one. There is no timer: a single
    request never waits for others, and many requests cost one COMMIT.

    The thread holds the store lock except while it waits for requests. Every attribute is its
    own; other threads call `start`, `alive` and `join`.

    :param store: is pinged while it is unavailable, and disconnected at the end.
    """

    def __init__(
        self,
        store: CounterStore,
        store_lock: threading.Lock,
        queue: RequestQueue,
        executor: BatchExecutor,
        guard: RegressionGuard,
        availability: DatabaseAvailability,
        direct: DirectExecutor,
        pruner: Pruner,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._store_lock = store_lock
        self._queue = queue
        self._executor = executor
        self._guard = guard
        self._availability = availability
        self._direct = direct
        self._pruner = pruner
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._batch: Batch | None = None
        """The requests that are being executed."""
        self.deferred = DeferredRequests(queue)

    def start(self, *, one_cpu: bool) -> None:
        """Start the thread.

        :param one_cpu: whether all threads of this process run on the same CPU.
        """
        if one_cpu:
            self._queue.parallel_wakeups = 1
        self._thread = threads.start(lambda: self._run(one_cpu), "committer")

    @property
    def started(self) -> bool:
        """Whether `start` was called."""
        return self._thread is not None

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def join(self, timeout: float | None) -> bool:
        """Wait for the end of the thread; whether it ended within `timeout` seconds."""
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self, one_cpu: bool) -> None:
        # Never released at the end: no other thread uses the store after this one.
        self._store_lock.acquire()
        try:
            if self._guard.persistent:
                self._process(None)
                self._wait_until_available()
            while len(self.deferred) or not self._queue.drained:
                self._process(self._collect(one_cpu))
                self._wait_until_available()
                self._pruner.run_if_due()
        finally:
            # No request is accepted after this thread, whatever ended it.
            self._queue.close()
            self._queue.fail_all(Closing())
            self._store.disconnect()

    def _wait_until_available(self) -> None:
        self._availability.wait_until_available(self._store.ping, self._queue.closing)

    def _collect(self, one_cpu: bool) -> Batch | None:
        """Wait for a batch; None when there is something else to do."""
        if not len(self._queue) and self._availability.error is None:
            self._store_lock.release()
            self._queue.wait(self._timeout())
            # First: callers that execute their own requests must not keep the lock from this one.
            self._direct.enable(False)
            self._store_lock.acquire()
        if len(self.deferred) and (self._clock() >= self.deferred.retry_at or self._queue.drained):
            batch = self.deferred.take()
        else:
            if one_cpu:
                self._queue.yield_to_arrivals()
            taken = self._queue.take()
            if taken is None:
                return None
            batch = taken
            self.deferred.divert(batch)
        batch.drop_abandoned()
        return batch

    def _timeout(self) -> float | None:
        """Seconds until there is something to do without a request; None for never."""
        now = self._clock()
        timeouts = [
            self._pruner.due_in(now),
            self._guard.due_in(),
            self.deferred.retry_at - now if len(self.deferred) else None,
        ]
        return min([timeout for timeout in timeouts if timeout is not None], default=None)

    def _process(self, batch: Batch | None) -> None:
        """Execute a batch, and complete every request of it whatever happens."""
        self._batch = batch
        self._availability.begin()
        try:
            self._guard.recheck()
            if batch is not None and batch.requests:
                self._execute(batch)
            self._guard.check_new_session()
        except CounterRegressed as error:
            self._fail(error)
        except Unavailable as error:
            self._availability.mark_unavailable(error)
            self._fail(error)
            self._queue.fail_all(error)
        except Exception:
            reference = uuid.uuid4().hex
            failed = self._fail(Unexpected(reference))
            log.exception("a batch of %d requests failed, reference %s", failed, reference)
        finally:
            self._availability.end()
            self._direct.enable(
                self._executor.batch_size == 1
                and self._availability.error is None
                and not self._guard.regressed
                and not len(self.deferred)
            )
            self._wake_completed([])

    def _fail(self, error: Exception) -> int:
        return 0 if self._batch is None else self._batch.fail(error)

    def _wake_completed(self, rest: Iterable[PendingRequest]) -> None:
        """Wake the callers of the batch; the rest is the batch from now on."""
        batch, self._batch = self._batch, None
        for request in rest:
            if self._batch is None:
                self._batch = self._queue.new_batch()
            self._batch.add(request)
        if batch is not None:
            batch.wake_all()

    def _execute(self, batch: Batch) -> None:
        pending = [batch.requests]
        deadline = max(request.deadline for request in pending[0])
        failures = 0
        while pending:
            self._guard.raise_if_regressed()
            requests = pending.pop(0)
            try:
                unfinished = self._executor.execute(requests, deadline)
            except Exception as error:
                failures += 1
                if failures == MAX_FAILURES or _concerns_all(error):
                    raise
                unfinished = self._isolate(requests, error)
            else:
                failures = 0
            for busy, requests in unfinished.busy:
                self._defer(requests, busy)
            pending = unfinished.retry + pending
            self._wake_completed(request for requests in pending for request in requests)

    def _isolate(self, requests: list[PendingRequest], error: Exception) -> Unfinished:
        """Halve the requests of a transaction that failed, until those are alone that fail it."""
        requests = [request for request in requests if not request.completed]
        if len(requests) > 1:
            middle = len(requests) // 2
            return Unfinished([requests[:middle], requests[middle:]])
        for request in requests:
            if isinstance(error, Unavailable):
                self._availability.report(error)
                request.complete(error)
            else:
                reference = uuid.uuid4().hex
                log.error("a request failed, reference %s", reference, exc_info=error)
                request.complete(Unexpected(reference))
        return Unfinished()

    def _defer(self, requests: list[PendingRequest], busy: ModeBusy) -> None:
        """Let requests for a locked counter wait, without the others."""
        now = self._clock()
        waiting = []
        for request in requests:
            if request.deadline <= now:
                request.complete(DatabaseUnavailable(str(busy)))
            else:
                waiting.append(request)
        # An attempt may take as long as the database waits for a lock: the others get as long.
        self.deferred.defer(waiting, now + RETRY_INTERVAL)


def _concerns_all(error: Exception) -> bool:
    """Whether a transaction fails with any of its requests."""
    known = isinstance(error, CounterRegressed | Unavailable)
    return known and not isinstance(error, TransactionRejected)
