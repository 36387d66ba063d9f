"""Requests that wait for the committer."""

from __future__ import annotations

import os
import threading
from collections import deque

from uniqueid.allocation.requests import Batch, PendingRequest
from uniqueid.errors import Closing, Overloaded

RETRY_INTERVAL = 1.0
"""Seconds between two attempts at a counter that another transaction holds locked."""


class RequestQueue:
    """A bounded queue of requests in batches.

    Any thread puts requests in and fails all; the committer alone waits and takes. One condition
    guards everything.

    :param max_length: how many requests may wait.
    :param batch_size: how many requests share a batch at most.
    """

    def __init__(self, *, max_length: int, batch_size: int) -> None:
        self._max_length = max_length
        self._batch_size = batch_size
        self._changed = threading.Condition(threading.Lock())
        self._batches: deque[Batch] = deque()
        self._length = 0
        self._interrupted = False
        self.closing = threading.Event()
        """Set by `close`, under the lock."""
        self.parallel_wakeups = batch_size
        """Of new batches; set before the first request."""

    def __len__(self) -> int:
        return self._length

    @property
    def drained(self) -> bool:
        """Whether the queue is closed and empty, which is for good."""
        with self._changed:
            return self.closing.is_set() and not self._batches

    def put(self, request: PendingRequest) -> None:
        """Add a request to the newest batch.

        :raises Closing: when the queue is closed.
        :raises Overloaded: when it is full.
        """
        with self._changed:
            if self.closing.is_set():
                raise Closing
            if self._length >= self._max_length:
                raise Overloaded(self._max_length)
            self._length += 1
            batches = self._batches
            if not batches or len(batches[-1].requests) >= self._batch_size:
                batches.append(self.new_batch())
                self._changed.notify()
            batches[-1].add(request)

    def new_batch(self) -> Batch:
        """A batch that is not in the queue."""
        return Batch(self.parallel_wakeups)

    def wait(self, timeout: float | None) -> None:
        """Wait until there is a request, or `close` or `interrupt` was called.

        :param timeout: in seconds; None waits forever.
        """
        with self._changed:
            if not (self._batches or self.closing.is_set() or self._interrupted):
                self._changed.wait(None if timeout is None else max(0, timeout))
            self._interrupted = False

    def interrupt(self) -> None:
        """End the current `wait`, or the next one."""
        with self._changed:
            self._interrupted = True
            self._changed.notify()

    def take(self) -> Batch | None:
        """Remove the oldest batch; None when the queue is empty."""
        with self._changed:
            if not self._batches:
                return None
            batch = self._batches.popleft()
            self._length -= len(batch.requests)
            return batch

    def yield_to_arrivals(self) -> None:
        """Let other threads run until none of them adds a request.

        For a process on one CPU, whose threads all wait for this one: it takes no time when no
        request is arriving.
        """
        length = -1
        while length != self._length:
            length = self._length
            os.sched_yield()

    def fail_all(self, error: Exception) -> None:
        """Empty the queue and complete its requests with an error."""
        with self._changed:
            batches, self._batches = self._batches, deque()
            self._length = 0
        for batch in batches:
            batch.fail(error)
            batch.wake_all()

    def close(self) -> None:
        """Reject new requests; those in the queue stay."""
        with self._changed:
            self.closing.set()
            self._changed.notify()


class DeferredRequests:
    """Requests of modes whose counters another transaction holds locked.

    They are tried again apart from all others, which would wait for the lock with them. The
    committer alone calls it; any thread may ask for its length.

    :param queue: makes the batch in which they wait.
    """

    def __init__(self, queue: RequestQueue) -> None:
        self._queue = queue
        self._batch = queue.new_batch()
        self.retry_at = 0.0
        """On the allocator's clock."""

    def __len__(self) -> int:
        return len(self._batch.requests)

    def defer(self, requests: list[PendingRequest], retry_at: float) -> None:
        """Defer requests after a failed attempt, and all others with them."""
        for request in requests:
            self._batch.add(request)
        self.retry_at = retry_at

    def divert(self, batch: Batch) -> None:
        """Move the requests of deferred modes out of a batch."""
        if not self._batch.requests:
            return
        modes = {request.mode for request in self._batch.requests}
        for request in batch.requests:
            if request.mode in modes:
                self._batch.add(request)
        batch.requests = [request for request in batch.requests if request.mode not in modes]

    def take(self) -> Batch:
        """Remove all of them, for another attempt."""
        batch, self._batch = self._batch, self._queue.new_batch()
        return batch
