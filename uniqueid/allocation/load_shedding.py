"""A limit for callers that wait for long."""

from __future__ import annotations

import threading

from uniqueid.allocation.requests import PendingRequest
from uniqueid.errors import Overloaded

PATIENCE = 1.0
"""Seconds after which waiting counts as long."""


class LoadShedding:
    """The callers that are being served, and the limit for those that wait for long.

    Each of them blocks a thread of the server, which needs some threads for /livez, /readyz and
    /metrics just when the database hangs.

    Any thread calls it. To add to a set and to remove from it are single operations of CPython,
    cheaper than a lock; the lock is for rejecting callers one by one.

    :param max_blocked_requests: how many callers may wait for longer than `PATIENCE`; None for any
        number.
    """

    def __init__(self, max_blocked_requests: int | None) -> None:
        self._limit = max_blocked_requests
        self._requests: set[PendingRequest] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self._limit is not None

    @property
    def full(self) -> bool:
        """Whether as many callers are being served as may wait for long."""
        return self._limit is not None and len(self._requests) >= self._limit

    def overloaded(self) -> Overloaded:
        """The error of a caller beyond the limit."""
        return Overloaded(self._limit or 0)

    def add(self, request: PendingRequest) -> None:
        """A caller is being served from now on."""
        self._requests.add(request)

    def discard(self, request: PendingRequest) -> None:
        """A caller is no longer being served."""
        self._requests.discard(request)

    def reject_excess(self, request: PendingRequest) -> None:
        """Reject a caller that has waited for long, if there are more than the limit.

        :raises Overloaded: when it has to stop waiting.
        """
        # One by one, so that no more than necessary are rejected.
        with self._lock:
            if self._limit is not None and len(self._requests) > self._limit:
                request.abandoned = True
                self._requests.discard(request)
                raise self.overloaded()
