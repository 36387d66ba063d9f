"""The entry point of allocation: requests in, ranges out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from uniqueid.allocation.availability import DatabaseAvailability
from uniqueid.allocation.committer import Committer
from uniqueid.allocation.direct import DirectExecutor
from uniqueid.allocation.executor import BatchExecutor
from uniqueid.allocation.high_water_marks import HighWaterMarks
from uniqueid.allocation.load_shedding import PATIENCE, LoadShedding
from uniqueid.allocation.pruning import Pruner
from uniqueid.allocation.regression import RegressionGuard
from uniqueid.allocation.request_queue import RequestQueue
from uniqueid.allocation.requests import KeysInFlight, PendingRequest
from uniqueid.errors import CounterRegressed, DatabaseUnavailable, Unavailable
from uniqueid.model import Allocation, AllocationRecord, CounterStore, Observer
from uniqueid.monitoring.incidents import Incidents


class Allocator:
    """Allocates ranges of IDs, no ID twice.

    A request waits in the queue until the committer thread has executed a transaction for it, or
    executes its transaction in its own thread, if no other request is being served. Whichever
    thread uses the store holds the store lock.

    Any thread calls it.

    :param store: where the counters are.
    :param request_timeout: seconds that a caller waits at most.
    :param queue_size: how many requests may wait.
    :param batch_size: how many requests share a transaction at most.
    :param repair: whether a counter that regressed is raised to its high-water mark
        (``on_regression = advance``), or every request is rejected until an operator has done so.
    :param max_blocked_requests: how many callers may wait for longer than a second.
    :param prune: deletes some expired records of the journal and returns their number.
    :param high_water_marks: of a store that brings some along from an earlier process
        (`uniqueid.fence.store`): one object, which both of them raise.
    :param incidents: reports to the log, shared with the health monitor.
    """

    def __init__(
        self,
        store: CounterStore,
        *,
        request_timeout: float = 10,
        queue_size: int = 1000,
        batch_size: int = 500,
        repair: bool = True,
        max_blocked_requests: int | None = None,
        prune: Callable[[], int] | None = None,
        high_water_marks: HighWaterMarks | None = None,
        observer: Observer | None = None,
        incidents: Incidents | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        observer = observer or Observer()
        self._timeout = request_timeout
        self._clock = clock
        self._marks = HighWaterMarks() if high_water_marks is None else high_water_marks
        self._availability = DatabaseAvailability(incidents or Incidents(), request_timeout, clock)
        self._guard = RegressionGuard(
            store,
            self._marks,
            repair=repair,
            timeout=request_timeout,
            persistent=high_water_marks is not None,
            observer=observer,
            clock=clock,
        )
        executor = BatchExecutor(
            store, self._marks, self._guard, self._availability, observer, clock
        )
        self._queue = RequestQueue(max_length=queue_size, batch_size=batch_size)
        self._callers = LoadShedding(max_blocked_requests)
        self._keys = KeysInFlight()
        self._store_lock = threading.Lock()
        self._direct = DirectExecutor(
            executor,
            self._store_lock,
            self._availability,
            self._queue,
            self._callers,
            request_timeout,
            clock,
        )
        pruner = Pruner(prune, self._availability, observer, clock)
        self._committer = Committer(
            store,
            self._store_lock,
            self._queue,
            executor,
            self._guard,
            self._availability,
            self._direct,
            pruner,
            clock,
        )
        self._start_lock = threading.Lock()

    def start(self, *, one_cpu: bool = False) -> None:
        """Start the committer, once; a process that forks does it after the fork.

        :param one_cpu: whether all threads of this process run on the same CPU.
        """
        with self._start_lock:
            if not self._committer.started:
                self._committer.start(one_cpu=one_cpu)

    def allocate(self, mode: str, count: int, record: AllocationRecord | None = None) -> Allocation:
        """Allocate `count` IDs of a mode to this caller alone.

        :param record: what the journal is to record of the request. With an idempotency key the
            result may be the range of an earlier request.
        :returns: the range. The transaction that allocated it is committed.
        :raises CounterExhausted, TooManyModes, ModeNotStorable: this request cannot be served.
        :raises CounterRegressed: a counter regressed and no operator has repaired it yet.
        :raises KeyReused: the key was used for another request.
        :raises KeyInFlight: an earlier request with the key is not completed yet.
        :raises JournalMissing: there is a record and no table for it.
        :raises Overloaded, Unavailable, Closing: not at this time. After the second, IDs may have
            been allocated: a gap.
        """
        if record is None or record.identity is None:
            return self._allocate(mode, count, record)
        with self._keys.serving(record.identity):
            return self._allocate(mode, count, record)

    def _allocate(self, mode: str, count: int, record: AllocationRecord | None) -> Allocation:
        if not self._committer.started:
            self.start()
        error = self._availability.error
        if error is not None:
            raise error
        now = self._clock()
        if self._callers.full and self._is_slow(now):
            raise self._callers.overloaded()
        request = PendingRequest(mode, count, now + self._timeout, record)
        self._callers.add(request)
        try:
            if not self._direct.try_execute(request):
                self._queue.put(request)
                if not self._wait(request):
                    raise self._abandon(request)
        finally:
            self._callers.discard(request)
        return request.result()

    def _is_slow(self, now: float) -> bool:
        """Whether requests wait for long at this time."""
        return self._availability.running_for(now) >= PATIENCE or bool(self._committer.deferred)

    def _wait(self, request: PendingRequest) -> bool:
        """Wait until a request is completed or its deadline has passed; whether it is completed.

        :raises Overloaded: when too many callers wait for long.
        """
        if self._callers.limited and self._timeout > PATIENCE:
            if request.wait(request.deadline - self._timeout + PATIENCE, self._clock):
                return True
            self._callers.reject_excess(request)
        return request.wait(request.deadline, self._clock)

    def _abandon(self, request: PendingRequest) -> DatabaseUnavailable:
        """A request has reached its deadline; those behind it need not wait as long."""
        request.abandoned = True
        if self._availability.mark_stalled():
            self._queue.fail_all(self._availability.no_response())
        return self._availability.no_response()

    @property
    def waiting(self) -> int:
        """How many requests wait for a transaction to begin."""
        return len(self._queue) + len(self._committer.deferred)

    @property
    def alive(self) -> bool:
        """Whether the committer runs, or will with the first request."""
        return not self._committer.started or self._committer.alive

    @property
    def unavailable(self) -> Unavailable | None:
        """Why requests are rejected at once, while the database or the fence is unavailable."""
        return self._availability.error

    @property
    def regressed(self) -> Mapping[str, CounterRegressed]:
        """The counters that regressed and were not repaired."""
        return self._guard.regressed

    @property
    def high_water_marks(self) -> Mapping[str, int]:
        """Counter to the lowest ID that may still be allocated, of those used so far."""
        return self._marks.snapshot()

    def close(self, timeout: float | None = None) -> bool:
        """Reject new requests, complete those that wait, and end the committer.

        :returns: whether it ended within `timeout` seconds.
        """
        self._queue.close()
        return self._committer.join(timeout)
