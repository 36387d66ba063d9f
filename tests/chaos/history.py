"""What clients saw: every call with its begin, its end, and its answer or error."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """One request for a range, as its client knows it."""

    client: int
    mode: str
    count: int
    """How many IDs were asked for."""
    begin: float
    """Seconds on the monotonic clock before the request was sent."""
    end: float
    """Seconds on the same clock after the answer was read, or the wait for it was over."""
    first: int | None = None
    """The answer's startIndex; None when the call was not answered with a range."""
    last: int | None = None
    """The answer's endIndex."""
    status: int | None = None
    """The status of an answer that holds no range; None when there was no answer at all."""
    error: str = ""
    """What the client made of it."""

    @property
    def answered(self) -> bool:
        """Whether the client got a range."""
        return self.first is not None

    @property
    def refused(self) -> bool:
        """Whether the service said that it took nothing from the counter (a 4xx)."""
        return self.status is not None and 400 <= self.status < 500


def is_503(call: Call) -> bool:
    """Whether the service said that the database is not available."""
    return call.status == 503 and "database-unavailable" in call.error


def is_regressed(call: Call) -> bool:
    """Whether the service reported a counter regression."""
    return call.status == 503 and "counter-regressed" in call.error


def is_fence_damaged(call: Call) -> bool:
    """Whether the service said that the fence file is missing or damaged."""
    return call.status == 503 and "fence-damaged" in call.error


def is_fence_unavailable(call: Call) -> bool:
    """Whether the service said that the fence file cannot be written."""
    return call.status == 503 and "fence-unavailable" in call.error


class History:
    """The calls of many clients, in the order in which they ended."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._lock = threading.Lock()

    def add(self, call: Call) -> None:
        """Note a call that is over."""
        with self._lock:
            self._calls.append(call)

    @property
    def calls(self) -> list[Call]:
        """A copy of what was noted so far."""
        with self._lock:
            return list(self._calls)

    def answers(self, mode: str | None = None) -> int:
        """How many calls were answered with a range so far."""
        return sum(call.answered and mode in (None, call.mode) for call in self.calls)
