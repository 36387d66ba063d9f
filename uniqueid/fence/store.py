"""The fence: an upper bound of all allocated IDs, on disk outside the database.

Of each counter the file holds two numbers. Before an ID at or above `limit` is completed, the limit
is raised by a whole window, so that the file is written once a window and not once a request; a
clean stop lowers it to the exact value. A counter that is found below the fence is raised to it,
whatever the database was restored from while the service was stopped.

The order is COMMIT, file, response. A crash after the COMMIT leaves the database above the file,
and one after the file leaves both above every completed request: a gap, never a duplicate.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from uniqueid.allocation.high_water_marks import HighWaterMarks
from uniqueid.errors import (
    MAX_ID,
    DatabaseUnavailable,
    FenceDamaged,
    FenceUnavailable,
    UniqueIDError,
)
from uniqueid.fence.file import Bounds, CounterBound, FenceFile, read
from uniqueid.logs import Event
from uniqueid.model import CounterStore, CounterUpdate, Observer

log = logging.getLogger(__name__)


class FencedStore:
    """A store that completes an allocation only when the fence is above all of its IDs.

    It is a `CounterStore`, which the thread that holds the store lock calls. Each call opens the
    fence first, where that was not done yet or has failed.

    :param store: where the counters are.
    :param path: the file; its directory must exist.
    :param window: how far a limit is raised above its counter.
    :param timeout: seconds for raising the counters when the fence is opened.
    """

    def __init__(
        self,
        store: CounterStore,
        path: str,
        *,
        window: int = 100_000,
        timeout: float = 10,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._file = FenceFile(os.path.abspath(path))
        self._window = window
        self._timeout = timeout
        self._observer = observer or Observer()
        self._clock = clock
        self._bounds: dict[str, CounterBound] = {}
        # Not 0: the first comparison is due before the first connection is made here.
        self._openings = 1
        self.high_water_marks = HighWaterMarks()
        """Shared with the allocator. Of a counter used since the start the mark is exact, of any
        other it is the file's limit."""
        self.error: str | None = "it was not opened yet"
        """Why nothing is allocated; None while the fence is open. Any thread may read it."""

    @property
    def connections(self) -> int:
        """Changes when the counters have to be compared with the high-water marks again."""
        return self._store.connections + self._openings

    def advance(
        self, totals: Mapping[str, int], high_water_marks: Mapping[str, int], **options: Any
    ) -> Mapping[str, CounterUpdate | UniqueIDError]:
        """As the store's; the fence is above all IDs when this returns.

        :raises FenceUnavailable, FenceDamaged: the IDs may have been allocated: a gap.
        """
        self._ensure_open()
        updates = self._store.advance(totals, self.high_water_marks, **options)
        next_ids: dict[str, int] = {}
        for update in updates.values():
            if not isinstance(update, UniqueIDError) and update.next_id > 1:
                # Two modes can be one counter.
                next_ids[update.counter] = max(update.next_id, next_ids.get(update.counter, 1))
        self._raise_limits(next_ids)
        # Only now: what is above the fence must not be completed.
        for counter, next_id in next_ids.items():
            self.high_water_marks.raise_to(counter, next_id)
        return updates

    def counters(self) -> Mapping[str, int]:
        """Each mode and its next ID."""
        self._ensure_open()
        return self._store.counters()

    def find(self, names: Collection[str]) -> Mapping[str, int]:
        """The next ID of each of the counters with these names, as the database compares names."""
        self._ensure_open()
        return self._store.find(names)

    def ping(self) -> None:
        """Find out whether both the fence and the database can be used."""
        self._ensure_open()
        self._store.ping()

    def disconnect(self) -> None:
        """Lower the limits to the exact values, release the file and close the connection."""
        if self._file.lock.held:
            marks = self.high_water_marks
            exact = {name: marks.get(name, bound.limit) for name, bound in self._bounds.items()}
            try:
                self._replace({name: CounterBound(at, at) for name, at in exact.items()})
            except FenceUnavailable as error:
                log.warning(
                    "%s; the next start leaves gaps of up to %d IDs", error, self._window
                )  # fmt: skip
            self._file.lock.release()
            self.error = "it was closed"
        self._store.disconnect()

    # -- opening ------------------------------------------------------------------------------

    def _ensure_open(self) -> None:
        """Return when the fence is open: whole, locked and writable."""
        try:
            if not self._file.lock.held:
                self._open()
            elif self.error is not None:
                self._replace(self._bounds)
            elif not self._file.is_unchanged():
                self._replace(self._bounds)
                log.error(
                    "the fence file %s was removed or changed by another process; it was"
                    " written again",
                    self._file.path,
                )
        except (FenceDamaged, FenceUnavailable) as error:
            self.error = f"{error.cause}{error.remedy}"
            raise

    def _open(self) -> None:
        lock, path = self._file.lock, self._file.path
        try:
            if not lock.take():
                raise FenceUnavailable(f"another process uses {path}; each needs a file of its own")
        except OSError as error:
            raise self._unavailable(error) from error
        try:
            bounds = self._read()
            self._raise_counters(bounds)
            marks = self.high_water_marks.snapshot()
            self._replace({name: CounterBound(at, at) for name, at in marks.items()})
        except BaseException:
            lock.release()
            raise
        self._openings += 1
        log.info(Event("the fence stands", fence=path, counters=len(bounds)))

    def _read(self) -> dict[str, CounterBound]:
        path = self._file.path
        try:
            return read(path)
        except FileNotFoundError as error:
            if self._store.counters():
                raise FenceDamaged(
                    f"there is no file {path}, and the database has counters"
                ) from error
            # Nothing was ever allocated: the first start.
            return {}
        except OSError as error:
            raise self._unavailable(error) from error

    def _raise_counters(self, bounds: Bounds) -> None:
        """Take the limits for high-water marks, and raise what a crash has left below them.

        After a stop that was not clean, it is not known how much of the window was used. A counter
        between `committed` and `limit` may well be right: it is raised, with a line of information.
        One below `committed` has regressed, which the allocator reports, and repairs or not.
        """
        found = dict(self._store.counters()) if bounds else {}
        found |= self._store.find([name for name in bounds if name not in found])
        uncertain = {
            counter: bound.limit
            for counter, bound in bounds.items()
            if bound.committed <= found.get(counter, 1) < bound.limit
        }
        if uncertain:
            updates = self._store.advance(
                dict.fromkeys(uncertain, 0),
                uncertain,
                repair=True,
                deadline=self._clock() + self._timeout,
            )
            for counter, update in updates.items():
                if isinstance(update, UniqueIDError):
                    raise DatabaseUnavailable(str(update))
                if update.database_next_id < update.first:
                    self._report_gap(counter, update)
        for counter, bound in bounds.items():
            self.high_water_marks.raise_to(counter, bound.limit)

    def _report_gap(self, counter: str, update: CounterUpdate) -> None:
        skipped = update.first - update.database_next_id
        self._observer.fence_skipped(skipped)
        log.info(
            Event(
                f"mode {counter!r} goes on at {update.first}: the service was not stopped cleanly,"
                f" and up to there IDs may have gone out; a gap of at most {skipped} IDs",
                mode=counter,
                found=update.database_next_id,
                expected=update.first,
            )
        )

    # -- writing ------------------------------------------------------------------------------

    def _raise_limits(self, next_ids: Mapping[str, int]) -> None:
        """Raise the limits of counters that are above them, by a window."""
        raised = {
            counter: CounterBound(next_id, min(next_id + self._window, MAX_ID + 1))
            for counter, next_id in next_ids.items()
            if counter not in self._bounds or self._bounds[counter].limit < next_id
        }
        if raised:
            after = {**self._bounds, **raised}
            self._write(lambda: self._file.update(raised, after))
            self._bounds = after

    def _replace(self, bounds: dict[str, CounterBound]) -> None:
        self._write(lambda: self._file.replace(bounds))
        self._bounds = bounds

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            self._observer.fence_failed()
            raise self._unavailable(error) from error
        self.error = None
        self._observer.fence_written()

    def _unavailable(self, error: OSError) -> FenceUnavailable:
        self.error = f"{self._file.path}: {error.strerror or error}"
        return FenceUnavailable(self.error)
