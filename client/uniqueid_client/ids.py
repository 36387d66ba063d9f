"""Ranges of IDs, and the iterator over IDs that are fetched ahead."""

from __future__ import annotations

import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from uniqueid_client import process

_HORIZON = 2.0
"""Seconds that a prefetched range should last."""
_GROWTH = 10
"""The largest ratio of a range to the one before: a burst does not reserve a million IDs."""


@dataclass(frozen=True, slots=True)
class Range:
    """IDs of a mode that belong to the caller alone: first to last, both included."""

    mode: str
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last + 1))

    def __contains__(self, id: object) -> bool:
        return isinstance(id, int) and self.first <= id <= self.last


class Call(Future[Range]):
    """A range that is being requested, in a thread of its own, up to a deadline."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.expires = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds up to the deadline."""
        return max(0.0, self.expires - time.monotonic())

    def is_failed(self) -> bool:
        """Whether it has an error, or is past its deadline."""
        return self.exception() is not None if self.done() else not self.left()


Start = Callable[[str, int], Call]
Wait = Callable[[Call], Range]


class Locked:
    """An iterator for Pythons without the GIL, where that of `range` is not atomic."""

    def __init__(self, ids: Iterator[int]) -> None:
        self._ids = ids
        self._lock = threading.Lock()

    def __iter__(self) -> Locked:
        return self

    def __next__(self) -> int:
        with self._lock:
            return next(self._ids)


_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


class Buffer:
    """The IDs that one process has fetched for an iterator.

    `current` is replaced under `lock`, which guards everything else, and used without it: its
    `__next__` is atomic.
    """

    def __init__(self, start: Callable[[int], Call], min_step: int, max_step: int) -> None:
        self.generation = process.current()
        self.lock = threading.Lock()
        self.current: Iterator[int] = iter(())
        """The IDs up to the low-water mark of the range, then up to its end."""
        self._rest = range(0)
        self._call: Call | None = None
        self._start = start
        self._bounds = (min_step, max_step)
        self._step = min_step
        self._started: float | None = None

    def advance(self) -> Call | None:
        """Replace `current`, which is exhausted; returns the call to wait for if no ID is there."""
        if self._rest:
            self._use(self._rest, range(0))
            return None
        # A failed prefetch is repeated; its error is raised only where a caller waited for it.
        if self._call is not None and self._call.is_failed():
            self._call = None
        call = self._prefetch()
        if not call.done() or call.is_failed():
            return call
        ids, self._call = call.result(), None
        half = ids.first + len(ids) // 2
        if half == ids.first:
            half = ids.last + 1
        self._use(range(ids.first, half), range(half, ids.last + 1))
        return None

    def drop(self) -> None:
        """Forget all IDs."""
        with self.lock:
            self.current, self._rest, self._call = iter(()), range(0), None

    def _use(self, ids: range, rest: range) -> None:
        self.current = Locked(iter(ids)) if _FREE_THREADED else iter(ids)
        self._rest = rest
        if not rest:
            self._prefetch()

    def _prefetch(self) -> Call:
        if self._call is None:
            self._call = self._start(self._next_step())
        return self._call

    def _next_step(self) -> int:
        """The number of IDs that is used within the horizon, at the rate since the last call."""
        low, high = self._bounds
        now = time.monotonic()
        if self._started is not None:
            # Between two calls about one step is used: half of a range and half of the next.
            wanted = int(self._step * _HORIZON / max(now - self._started, 1e-6))
            self._step = max(low, min(high, wanted, self._step * _GROWTH))
        self._started = now
        return self._step


class BaseIDs:
    """What both iterators share: one buffer per process."""

    def __init__(self, start: Start, mode: str, min_step: int, max_step: int) -> None:
        if not 1 <= min_step <= max_step:
            raise ValueError(
                f"min_step is {min_step!r} and max_step is {max_step!r}: give whole numbers of 1"
                " or more, the second not smaller than the first"
            )
        self.mode = mode
        self._buffers = process.PerProcess(
            lambda: Buffer(lambda count: start(mode, count), min_step, max_step)
        )
        self._buffer = self._buffers.get()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(mode={self.mode!r})"

    def _take(self) -> int | Call:
        """The next ID, or the call to wait for before the next try."""
        buffer = self._buffer = self._buffers.get()
        with buffer.lock:
            while (id := next(buffer.current, None)) is None:
                if (call := buffer.advance()) is not None:
                    return call
            return id

    def drop(self) -> None:
        """Forget the IDs that this process has fetched."""
        self._buffers.get().drop()


class IDs(BaseIDs):
    """An endless iterator over IDs of a mode, for any number of threads; see `Client.ids`."""

    def __init__(self, start: Start, wait: Wait, mode: str, min_step: int, max_step: int) -> None:
        super().__init__(start, mode, min_step, max_step)
        self._wait = wait

    def __iter__(self) -> IDs:
        return self

    def __next__(self) -> int:
        """The next ID; blocks while there is none."""
        buffer = self._buffer
        if process.mark[0] and buffer.generation == process.generation:
            id = next(buffer.current, None)
            if id is not None:
                return id
        while True:
            taken = self._take()
            if type(taken) is int:
                return taken
            assert isinstance(taken, Call)
            self._wait(taken)
