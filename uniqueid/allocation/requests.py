"""Requests on their way through the allocator."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from uniqueid.errors import KeyInFlight, Unavailable
from uniqueid.model import Allocation, AllocationRecord


class PendingRequest:
    """One caller's request until it is completed.

    The caller's thread creates it and waits for it. Only the thread that holds the store lock, or
    one that empties the queue, completes it: `completed` is set last, and nothing changes after it.

    :param deadline: on the allocator's clock.
    :param record: what the journal is to record of it.
    """

    __slots__ = (
        "abandoned",
        "allocation",
        "completed",
        "count",
        "deadline",
        "error",
        "lock",
        "mode",
        "record",
    )

    def __init__(
        self, mode: str, count: int, deadline: float, record: AllocationRecord | None = None
    ) -> None:
        self.mode = mode
        self.count = count
        self.deadline = deadline
        self.record = record
        self.allocation: Allocation | None = None
        self.error: Exception | None = None
        self.completed = False
        self.abandoned = False
        """Set by the caller when it stops waiting: no IDs are allocated for it any more."""
        self.lock: threading.Lock | None = None
        """Released when its batch is woken; another one after it was moved to another batch."""

    def complete(self, result: Allocation | Exception) -> None:
        """Set its result, the first of them for good."""
        if isinstance(result, Allocation):
            self.allocation = result
        else:
            self.error = result
        self.completed = True

    def wait(self, until: float, clock: Callable[[], float]) -> bool:
        """Wait up to a time of the clock; whether it was completed."""
        while True:
            lock = self.lock
            assert lock is not None
            if not lock.acquire(timeout=max(0, until - clock())):
                return self.completed
            lock.release()
            if self.completed:
                return True
            # It was moved to another batch.

    def result(self) -> Allocation:
        """The range of a completed request.

        :raises Exception: the error with which it was completed.
        """
        if self.allocation is None:
            assert self.error is not None
            # Several callers may share an error; each starts a traceback of its own.
            raise self.error.with_traceback(None)
        return self.allocation


class Batch:
    """Requests that share a transaction, and whose callers are woken together.

    One thread at a time changes it: under the queue's lock while it is queued, then the committer.

    :param parallel_wakeups: how many callers are woken at once. Each of them shares a lock with
        others, which it releases for the next. On one CPU a single lock is best: the callers wake
        one after the other, as fast as Python can run them, and do not contend for Python's own
        lock, which costs each of them several context switches.
    """

    __slots__ = ("_locks", "_parallel_wakeups", "requests")

    def __init__(self, parallel_wakeups: int) -> None:
        self.requests: list[PendingRequest] = []
        self._locks: list[threading.Lock] = []
        self._parallel_wakeups = parallel_wakeups

    def add(self, request: PendingRequest) -> None:
        """Add a request, which waits for this batch from now on."""
        number = len(self.requests)
        if number < self._parallel_wakeups:
            lock = threading.Lock()
            lock.acquire()
            self._locks.append(lock)
        request.lock = self._locks[number % len(self._locks)]
        self.requests.append(request)

    def wake_all(self) -> None:
        """Wake all callers. Those whose request was moved to another batch wait on."""
        for lock in self._locks:
            lock.release()

    def fail(self, error: Exception) -> int:
        """Complete all requests that are not completed with an error; return their number."""
        pending = [request for request in self.requests if not request.completed]
        for request in pending:
            request.complete(error)
        return len(pending)

    def drop_abandoned(self) -> None:
        """Remove the requests whose callers have stopped waiting."""
        self.requests = [request for request in self.requests if not request.abandoned]


class KeysInFlight:
    """The idempotency keys of the requests that are being served by this process.

    Any thread calls it; one lock guards the counts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}

    @contextmanager
    def serving(self, identity: tuple[str, str]) -> Iterator[None]:
        """Serve a request with a key.

        :raises KeyInFlight: instead of Unavailable, when another request with the key was being
            served at the beginning: the client has to wait for its outcome.
        """
        with self._lock:
            earlier = self._counts.get(identity, 0)
            self._counts[identity] = earlier + 1
        try:
            yield
        except Unavailable as error:
            if earlier:
                raise KeyInFlight(identity[0]) from error
            raise
        finally:
            with self._lock:
                self._counts[identity] -= 1
                if not self._counts[identity]:
                    del self._counts[identity]
