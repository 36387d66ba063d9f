"""What a process has for itself: a child of fork() shares neither connections nor IDs."""

from __future__ import annotations

import bisect
import contextlib
import mmap
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

import requests

if TYPE_CHECKING:
    from uniqueid_client.ids import Call

T = TypeVar("T")

MAX_SEEN = 10_000
"""Ranges remembered of a mode; adjacent ranges count as one."""
_MAX_KEYS = 1_000


class ProcessID:
    """`mark[0]` where the kernel cannot wipe memory on fork(): a system call each time."""

    def __init__(self) -> None:
        self._pid = 0

    def __getitem__(self, _place: int) -> int:
        return int(self._pid == os.getpid())

    def __setitem__(self, _place: int, value: int) -> None:
        self._pid = os.getpid() if value else 0


def _new_mark() -> mmap.mmap | ProcessID:
    with contextlib.suppress(AttributeError, OSError):
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_MADV_WIPEONFORK)
        return page
    return ProcessID()


_MADV_WIPEONFORK = 18
"""madvise(2), since Linux 4.14; the module mmap has no name for it."""
mark = _new_mark()
"""mark[0] is 0 in a child of fork(), also of a program that embeds Python and does not run its
hooks, as uWSGI does not."""
generation = 0
"""The number of forks that were noticed before this process."""

if hasattr(os, "register_at_fork"):  # Windows has no fork().
    # The process ID of a grandchild may be that of an ancestor which has ended.
    os.register_at_fork(after_in_child=lambda: mark.__setitem__(0, 0))


def current() -> int:
    """The generation of this process."""
    global generation
    if not mark[0]:
        generation += 1
        mark[0] = 1
    return generation


class PerProcess(Generic[T]):
    """One object in each process.

    There is no lock, which a child could inherit locked: `dict.setdefault` is atomic.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}

    def get(self) -> T:
        key = current()
        made = self._made.get(key)
        return self._made.setdefault(key, self._make()) if made is None else made


class Connections:
    """The idle sessions, the pending calls and the received ranges of one process.

    `_lock` guards the ranges; any thread that uses the client calls it.
    """

    def __init__(self) -> None:
        self.closing = threading.Event()
        self.calls: weakref.WeakSet[Call] = weakref.WeakSet()
        self._idle: deque[requests.Session] = deque()
        self._seen: dict[str, RangeSet] = {}
        self._keyed: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, new_session: Callable[[], requests.Session]) -> requests.Session:
        """An idle session, or a new one."""
        try:
            return self._idle.pop()
        except IndexError:
            return new_session()

    def give_back(self, session: requests.Session) -> None:
        self._idle.append(session)
        if self.closing.is_set():
            self.close()

    def note(self, mode: str, start: int, stop: int, key: str | None, replayed: bool) -> bool:
        """Remember a range; False if a part of it was received before.

        :param key: the caller's own. Its range may come again if the service reports a replay.
        """
        with self._lock:
            if key is not None and replayed and self._keyed.get((mode, key)) == (start, stop):
                return True
            new = self._seen.setdefault(mode, RangeSet()).add(start, stop)
            if new and key is not None:
                self._keyed[mode, key] = (start, stop)
                if len(self._keyed) > _MAX_KEYS:
                    self._keyed.popitem(last=False)
            return new

    def close(self) -> None:
        self.closing.set()
        while True:
            try:
                session = self._idle.pop()
            except IndexError:
                return
            session.close()


class RangeSet:
    """Disjoint ranges, adjacent ones joined; above `MAX_SEEN` the lowest are forgotten."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.stops: list[int] = []

    def add(self, start: int, stop: int) -> bool:
        """Add start to stop - 1; False if it overlaps a range of the set."""
        starts, stops = self.starts, self.stops
        # The ranges low to high - 1 touch the new one or overlap it.
        low = bisect.bisect_left(stops, start)
        high = bisect.bisect_right(starts, stop)
        if any(starts[place] < stop and start < stops[place] for place in range(low, high)):
            return False
        if low < high:
            start, stop = min(start, starts[low]), max(stop, stops[high - 1])
        starts[low:high], stops[low:high] = [start], [stop]
        if len(starts) > MAX_SEEN:
            del starts[0], stops[0]
        return True
