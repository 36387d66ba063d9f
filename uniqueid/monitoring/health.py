"""What is asked of the database for the sake of those who watch, apart from allocation.

One thread with a connection of its own asks, at most once a second, whoever wants to know. Nobody
waits for it for long: a database that hangs holds up this thread and no other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from uniqueid.errors import (
    CounterRegressed,
    DatabaseUnavailable,
    SchemaError,
    Unavailable,
    UniqueIDError,
)
from uniqueid.monitoring.incidents import Troubles
from uniqueid.runtime import threads

KEEP = 1.0
"""Seconds for which an answer counts, so that probes cannot load the database."""
PATIENCE = 1.0
"""Seconds after which a question without an answer is an answer."""
LOOK_AGAIN = 1.0
"""Seconds between two questions that nobody asked, while something is wrong."""


class Counters(Protocol):
    """The part of the store that is needed here."""

    def ping(self) -> None: ...
    def counters(self) -> Mapping[str, int]: ...
    def find(self, names: Collection[str]) -> Mapping[str, int]: ...
    def disconnect(self) -> None: ...


@dataclass(frozen=True)
class Found:
    """What the database answered."""

    database: str | None = None
    """Why it could not be asked; None when it answered."""
    schema: str | None = None
    """What is wrong with its tables, and the command that mends it."""
    counters: Mapping[str, int] = field(default_factory=dict)
    """Each mode and its next ID."""
    low: Mapping[str, CounterRegressed] = field(default_factory=dict)
    """The counters below what this process has handed out."""


class Watch:
    """Asks the database in a thread of its own and keeps the answer for a moment.

    :param store: for this thread alone; the committer has another.
    :param require: raises SchemaError where the tables are not what this release needs.
    :param floors: counter to the lowest ID that may still be handed out, as of now.
    :param troubles: where it is told what is wrong; shared with the committer.
    :param close_each: give the connection back after each question: SQLite's files are not held.
    """

    def __init__(
        self,
        store: Counters,
        require: Callable[[], object],
        floors: Callable[[], Mapping[str, int]] = dict,
        *,
        close_each: bool = False,
        troubles: Troubles | None = None,
        keep: float = KEEP,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._require = require
        self._floors = floors
        self._close_each = close_each
        self._troubles = troubles or Troubles()
        self._keep = keep
        self._patience = patience
        self._clock = clock
        self._changed = threading.Condition()
        self._asked_at: float | None = None
        self._found: Found | None = None
        self._found_at = 0.0
        self._closing = False
        self._thread: threading.Thread | None = None

    def latest(self) -> Found:
        """The last answer, at once; an old one has the question asked again."""
        with self._changed:
            self._ask()
            if self._asked_at is not None and self._clock() - self._asked_at >= self._patience:
                return self._silence(self._asked_at)
            return self._found or Found()

    def look(self) -> Found:
        """An answer that is not older than `keep`, within `patience` seconds."""
        with self._changed:
            self._ask()
            asked_at = self._asked_at
            if asked_at is not None:
                self._changed.wait_for(
                    lambda: self._asked_at != asked_at or self._closing,
                    max(0, asked_at + self._patience - self._clock()),
                )
                if self._asked_at == asked_at:
                    return self._silence(asked_at)
            assert self._found is not None
            return self._found

    def _silence(self, since: float) -> Found:
        waited = self._clock() - since
        reason = f"it has not answered for {waited:.1f} seconds"
        return Found(reason, counters=self._found.counters if self._found else {})

    def close(self, timeout: float | None = None) -> None:
        """End the thread and its connection."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)

    def _ask(self) -> None:
        """Have the question asked, unless there is a fresh answer or it is under way."""
        now = self._clock()
        fresh = self._found is not None and now - self._found_at < self._keep
        if fresh or self._asked_at is not None or self._closing:
            return
        self._asked_at = now
        if self._thread is None:
            # With the first question: a server may fork before.
            self._thread = threads.start(self._run, "watch")
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                found = self._found
                wrong = found is not None and (found.database or found.schema)
                # What is wrong is looked at again without being asked, so that its end is told.
                self._changed.wait_for(
                    lambda: self._asked_at is not None or self._closing,
                    LOOK_AGAIN if wrong else None,
                )
                if self._closing:
                    break
                if self._asked_at is None:
                    self._asked_at = self._clock()
            found = self._question()
            with self._changed:
                self._found, self._found_at = found, self._clock()
                self._asked_at = None
                self._changed.notify_all()
        self._store.disconnect()

    def _question(self) -> Found:
        try:
            # Before the counters: what is handed out meanwhile is in the database already.
            floors = self._floors()
            # First, since it makes a new connection in the place of one that was lost.
            self._store.ping()
            self._require()
            counters = self._store.counters()
            low = CounterRegressed.among(counters, floors, self._store.find)
        except SchemaError as error:
            self._troubles.database.ended("watch")
            self._troubles.tables.found("watch", str(error))
            return Found(schema=str(error))
        except DatabaseUnavailable as error:
            self._store.disconnect()
            self._troubles.database.found("watch", error.cause)
            return Found(database=error.cause)
        except Exception as error:
            cause = error.__class__.__name__
            self._troubles.database.found("watch", cause, error)
            return Found(database=cause)
        finally:
            if self._close_each:
                self._store.disconnect()
        self._troubles.database.ended("watch")
        self._troubles.tables.ended("watch")
        return Found(counters=counters, low=low)


class Checked(Protocol):
    """The part of the allocator that is needed here."""

    @property
    def alive(self) -> bool: ...
    @property
    def unavailable(self) -> Unavailable | None: ...
    @property
    def regressed(self) -> Mapping[str, CounterRegressed]: ...


Checks = Mapping[str, Callable[[], str | None]]
"""By name, what `/readyz` asks; the answer is what is wrong, or None."""


def checks(
    allocator: Checked,
    look: Callable[[], Found],
    *,
    repair: bool,
    fence: Callable[[], str | None] | None = None,
) -> Checks:
    """What `/readyz` asks.

    :param look: what the database answered: `Watch.look` or `Watch.latest`.
    :param repair: with ``on_regression = advance`` a counter that went back is raised by the next
        request for it, and no reason to send no requests.
    :param fence: what is wrong with the fence, where there is one.
    """

    def database() -> str | None:
        down = allocator.unavailable
        return down.cause if isinstance(down, DatabaseUnavailable) else look().database

    def tables() -> str | None:
        return look().schema

    def committer() -> str | None:
        return None if allocator.alive else "the committer thread has ended: restart the service"

    def counters() -> str | None:
        low: dict[str, UniqueIDError] = dict(allocator.regressed)
        if not repair:
            low |= look().low
        return "; ".join(str(error) for error in low.values()) or None

    found = {"database": database, "schema": tables, "committer": committer, "counters": counters}
    return found if fence is None else {**found, "fence": fence}
