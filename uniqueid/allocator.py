"""Group commit: many waiting requests, one transaction; and the high-water guard.

One committer thread takes whatever has arrived, adds it up per mode, has the store commit it once
and slices the ranges. What arrives meanwhile shares the next transaction, so a lone caller never
waits for company and a crowd costs one commit. A caller is woken only after the COMMIT.

The guard: the allocator remembers the highest ID it has handed out of each counter. A database
that answers with less has gone back, and what it says is not believed.

Requests with an entry for the journal (`uniqueid.journal`), those with an idempotency key among
them, share the transactions of all others, and the store says which range each of them got.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from uniqueid.errors import (
    Closing,
    CounterExhausted,
    CounterRegressed,
    DatabaseUnavailable,
    JournalMissing,
    KeyInFlight,
    ModeBusy,
    Overloaded,
    UniqueIDError,
)
from uniqueid.logs import Event

log = logging.getLogger(__name__)

# Seconds between two looks at a database that is down or has gone back, and between two tries of
# a counter that somebody else holds locked.
_LOOK_AGAIN = 1.0
# Seconds after which those who wait beyond `crowd` are sent away.
_CROWD_PATIENCE = 1.0
# Seconds between two looks for entries of the journal whose time is over, when there were none,
# and the share of its time that the committer spends on deleting when there are.
_PRUNE_EVERY = 60.0
_PRUNE_SHARE = 0.1


class Advanced(Protocol):
    """A counter that was moved on, as the store tells it."""

    @property
    def counter(self) -> str: ...
    @property
    def first(self) -> int: ...
    @property
    def found(self) -> int: ...
    @property
    def regressed(self) -> bool: ...
    @property
    def recorded(self) -> Sequence[Placed | UniqueIDError]: ...
    @property
    def spared(self) -> int: ...


class Placed(Protocol):
    """The range of an entry, as the store tells it."""

    @property
    def first(self) -> int: ...
    @property
    def replayed(self) -> bool: ...


class Entry(Protocol):
    """What the journal is to know of a request, as far as it matters here."""

    replayed: bool
    """Set when the range of an earlier request is the answer."""

    @property
    def identity(self) -> tuple[str, str] | None: ...


class Counters(Protocol):
    """The part of the store which the allocator needs; `uniqueid.store.Store` says more."""

    connections: int

    def advance(
        self,
        totals: Mapping[str, int],
        floors: Mapping[str, int],
        *,
        repair: bool,
        deadline: float,
        entries: Sequence[Any] = (),
    ) -> Mapping[str, Advanced | UniqueIDError]: ...

    def counters(self) -> Mapping[str, int]: ...
    def ping(self) -> None: ...
    def disconnect(self) -> None: ...


class Observer(Protocol):
    """Told what happens, for the metrics."""

    def committed(self, requests: int, seconds: float) -> None: ...
    def handed_out(self, mode: str, requests: int, count: int, next_id: int) -> None: ...
    def regressed(self, mode: str) -> None: ...
    def replayed(self, requests: int) -> None: ...
    def pruned(self, entries: int) -> None: ...


class _Silent:
    def committed(self, requests: int, seconds: float) -> None:
        pass

    def handed_out(self, mode: str, requests: int, count: int, next_id: int) -> None:
        pass

    def regressed(self, mode: str) -> None:
        pass

    def replayed(self, requests: int) -> None:
        pass

    def pruned(self, entries: int) -> None:
        pass


class _Ticket:
    """One caller's request, on its way through the committer."""

    __slots__ = (
        "abandoned",
        "answered",
        "batch",
        "count",
        "deadline",
        "done",
        "entry",
        "error",
        "first",
        "mode",
    )

    def __init__(self, mode: str, count: int, deadline: float, entry: Entry | None = None) -> None:
        self.mode = mode
        self.count = count
        self.deadline = deadline
        self.entry = entry
        self.first = 0
        self.batch = 0
        self.error: Exception | None = None
        self.abandoned = False
        self.answered = False
        # Held until there is an answer: the cheapest thing that a thread can wait for.
        self.done = threading.Lock()
        self.done.acquire()

    def give(self, first: int) -> None:
        self.first = first
        self.answered = True
        self.done.release()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.answered = True
        self.done.release()


class _Flight:
    """A transaction under way, since a time of the clock."""

    __slots__ = ("since",)

    def __init__(self, since: float) -> None:
        self.since = since


def _facts(totals: Mapping[str, int]) -> dict[str, object]:
    return {"modes": ",".join(totals), "ids": sum(totals.values())}


class Allocator:
    """Hands out ranges, none twice.

    :param store: where the counters are; only the committer thread uses it.
    :param request_timeout: seconds that a caller waits at the most.
    :param queue_size: how many callers may wait.
    :param batch_size: how many of them share a transaction at the most.
    :param repair: whether a counter that went back is raised above the highest ID handed out
        (``on_regression = advance``), or every request is refused until that was done by hand.
    :param crowd: how many callers may wait for longer than a second. Each holds a thread of the
        server, which needs some for /livez, /readyz and /metrics just when the database hangs.
    :param prune: deletes some entries of the journal whose time is over, and says how many; the
        committer calls it between two transactions.
    """

    def __init__(
        self,
        store: Counters,
        *,
        request_timeout: float = 10,
        queue_size: int = 1000,
        batch_size: int = 500,
        repair: bool = True,
        crowd: int | None = None,
        prune: Callable[[], int] | None = None,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._timeout = request_timeout
        self._queue_size = queue_size
        self._batch_size = batch_size
        self._repair = repair
        self._crowd = crowd
        self._callers: set[_Ticket] = set()
        self._crowd_lock = threading.Lock()
        self._prune = prune
        self._prune_at = clock() + random.uniform(0, _PRUNE_EVERY)
        self._with_entries = False
        self._keys: dict[tuple[str, str], int] = {}
        self._keys_lock = threading.Lock()
        self._observer = observer or _Silent()
        self._clock = clock
        self._queue: SimpleQueue[_Ticket | None] = SimpleQueue()
        self._deferred: list[_Ticket] = []
        self._deferred_until = 0.0
        self._floors: dict[str, int] = {}
        self._regressed: dict[str, CounterRegressed] = {}
        self._looked = 0.0
        self._connections = 0
        self._batch = 0
        self._down: DatabaseUnavailable | None = None
        self._in_flight: _Flight | None = None
        self._stalled: _Flight | None = None
        self._closing = threading.Event()
        self._ended = False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    # -- for callers, from any thread ---------------------------------------------------------

    def start(self) -> None:
        """Start the committer, once; a process that forks does it after the fork."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
                self._thread.start()

    def allocate(
        self,
        mode: str,
        count: int,
        facts: dict[str, object] | None = None,
        entry: Entry | None = None,
    ) -> int:
        """Take `count` IDs of a mode for this caller alone.

        :param facts: told how many requests shared the transaction, as `batch`.
        :param entry: what to record of it. With an idempotency key the answer may be the range of
            an earlier request, and `entry.replayed` says so.
        :returns: the first; they end at first + count - 1. The database has them on disk.
        :raises CounterExhausted, TooManyModes, ModeNotStorable: this request can't be met.
        :raises CounterRegressed: the database went back and nobody has mended it yet.
        :raises KeyReused: the key was used for another request.
        :raises KeyInFlight: the key's earlier request has no answer yet.
        :raises JournalMissing: there is an entry and no table for it.
        :raises Overloaded, DatabaseUnavailable, Closing: not now. After the second the IDs may
            have been taken from the counter; nobody will get them.
        """
        if entry is not None:
            self._with_entries = True
            if entry.identity is not None:
                return self._allocate_once(mode, count, facts, entry, entry.identity)
        return self._allocate(mode, count, facts, entry)

    def _allocate_once(
        self,
        mode: str,
        count: int,
        facts: dict[str, object] | None,
        entry: Entry,
        identity: tuple[str, str],
    ) -> int:
        """The same with a key, which another caller may wait with at the same time."""
        with self._keys_lock:
            earlier = self._keys.get(identity, 0)
            self._keys[identity] = earlier + 1
        try:
            return self._allocate(mode, count, facts, entry)
        except DatabaseUnavailable as error:
            if earlier:
                raise KeyInFlight(identity[0]) from error
            raise
        finally:
            with self._keys_lock:
                self._keys[identity] -= 1
                if not self._keys[identity]:
                    del self._keys[identity]

    def _allocate(
        self, mode: str, count: int, facts: dict[str, object] | None, entry: Entry | None
    ) -> int:
        if self._thread is None:
            self.start()
        down = self.down
        if down is not None:
            raise down
        if self._closing.is_set():
            raise Closing
        if self._queue.qsize() >= self._queue_size:
            raise Overloaded(self._queue_size)
        now = self._clock()
        if self._crowd is not None and len(self._callers) >= self._crowd and self._slow(now):
            raise Overloaded(self._crowd)
        ticket = _Ticket(mode, count, now + self._timeout, entry)
        # Adding to a set is one step for CPython's threads, and cheaper than a lock.
        self._callers.add(ticket)
        try:
            self._queue.put(ticket)
            if self._ended:
                self._fail_queued(Closing())
            if not self._answered(ticket):
                raise self._give_up(ticket)
        finally:
            self._callers.discard(ticket)
        if ticket.error is not None:
            # One error may go to many callers; each starts a traceback of its own.
            raise ticket.error.with_traceback(None)
        if facts is not None:
            facts["batch"] = ticket.batch
        return ticket.first

    def _answered(self, ticket: _Ticket) -> bool:
        """Wait for the answer, up to the deadline, or for a second where there is a crowd.

        :raises Overloaded: when this caller is one too many.
        """
        if self._crowd is None or self._timeout <= _CROWD_PATIENCE:
            return ticket.done.acquire(timeout=self._timeout)
        if ticket.done.acquire(timeout=_CROWD_PATIENCE):
            return True
        # One by one, so that no more leave than have to.
        with self._crowd_lock:
            if len(self._callers) > self._crowd:
                ticket.abandoned = True
                self._callers.discard(ticket)
                raise Overloaded(self._crowd)
        return ticket.done.acquire(timeout=self._timeout - _CROWD_PATIENCE)

    def _slow(self, now: float) -> bool:
        """Whether those who wait have done so for a second."""
        flight = self._in_flight
        stuck = flight is not None and now - flight.since >= _CROWD_PATIENCE
        return stuck or bool(self._deferred)

    @property
    def waiting(self) -> int:
        """How many callers wait for a transaction to begin."""
        return self._queue.qsize() + len(self._deferred)

    @property
    def alive(self) -> bool:
        """Whether the committer runs, or will with the first request."""
        return self._thread is None or self._thread.is_alive()

    @property
    def down(self) -> DatabaseUnavailable | None:
        """Why requests are refused at once, while the database is away."""
        down = self._down
        if down is not None:
            return DatabaseUnavailable(down.cause)
        if self._stalled is not None and self._stalled is self._in_flight:
            return self._no_answer()
        return None

    @property
    def regressed(self) -> Mapping[str, CounterRegressed]:
        """The counters that went back and were not mended."""
        return dict(self._regressed)

    @property
    def floors(self) -> Mapping[str, int]:
        """Counter to the lowest ID that may still be handed out, of those used so far."""
        return dict(self._floors)

    def close(self, timeout: float | None = None) -> bool:
        """Take no more requests, answer those that wait, and end the committer.

        :returns: whether it ended within `timeout` seconds.
        """
        self._closing.set()
        self._queue.put(None)
        thread = self._thread
        if thread is None:
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def _no_answer(self) -> DatabaseUnavailable:
        return DatabaseUnavailable(f"it did not answer within {self._timeout:g} seconds")

    def _give_up(self, ticket: _Ticket) -> DatabaseUnavailable:
        """The deadline of a caller has passed; those behind it need not find out one by one."""
        ticket.abandoned = True
        flight = self._in_flight
        if flight is not None and self._clock() - flight.since >= 0.9 * self._timeout:
            self._stalled = flight
            self._fail_queued(self._no_answer())
        return self._no_answer()

    def _fail_queued(self, error: Exception) -> int:
        failed = 0
        while True:
            try:
                ticket = self._queue.get_nowait()
            except Empty:
                return failed
            if ticket is None:
                if not self._ended:
                    self._queue.put(None)
                return failed
            ticket.fail(error)
            failed += 1

    # -- the committer ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            last = False
            while not last or self._deferred:
                batch, last = self._collect(last)
                self._commit_guarded(batch)
                if self._down is not None and not last:
                    self._wait_for_database()
                elif self._prune is not None and self._clock() >= self._prune_at and not last:
                    self._prune_some(self._prune)
        finally:
            self._ended = True
            self._fail_queued(Closing())
            self._store.disconnect()

    def _collect(self, last: bool) -> tuple[list[_Ticket], bool]:
        """Wait for a request and take what else has arrived; and whether that was the last.

        Empty when it is time to look at the database again.
        """
        now = self._clock()
        if self._deferred and (last or now >= self._deferred_until):
            # Apart from the rest, which would wait for the lock with them.
            batch, self._deferred = self._deferred, []
            return [ticket for ticket in batch if not ticket.abandoned], last
        patience = self._deferred_until - now if self._deferred else None
        if self._regressed:
            patience = _LOOK_AGAIN if patience is None else min(patience, _LOOK_AGAIN)
        if self._prune is not None:
            until = max(0.0, self._prune_at - now)
            patience = until if patience is None else min(patience, until)
        try:
            ticket = self._queue.get(timeout=patience)
        except Empty:
            return [], False
        if ticket is None:
            return [], True
        batch = [ticket]
        while len(batch) < self._batch_size:
            try:
                ticket = self._queue.get_nowait()
            except Empty:
                break
            if ticket is None:
                last = True
                break
            batch.append(ticket)
        if self._deferred:
            busy = {ticket.mode for ticket in self._deferred}
            self._deferred += [ticket for ticket in batch if ticket.mode in busy]
            batch = [ticket for ticket in batch if ticket.mode not in busy]
        return [ticket for ticket in batch if not ticket.abandoned], last

    def _commit_guarded(self, batch: list[_Ticket]) -> None:
        """Commit a batch and answer every ticket of it, whatever happens."""
        self._in_flight = _Flight(self._clock())
        try:
            if self._regressed:
                self._look_at_regressed()
            if batch:
                self._commit(batch)
            if self._store.connections != self._connections:
                # A new session may have led to another server, or to one that was restored.
                self._connections = self._store.connections
                self._look_at_all()
        except DatabaseUnavailable as error:
            self._down = error
            failed = self._fail(batch, error) + self._fail_queued(error)
            log.error("%s; %d requests are answered with 503", error, failed)
        except Exception as error:
            log.exception("a batch of %d requests failed", len(batch))
            self._fail(batch, error)
        finally:
            self._in_flight = None

    def _fail(self, batch: list[_Ticket], error: Exception) -> int:
        open_tickets = [ticket for ticket in batch if not ticket.answered]
        for ticket in open_tickets:
            ticket.fail(error)
        return len(open_tickets)

    def _commit(self, batch: list[_Ticket]) -> None:
        waiting: dict[str, list[_Ticket]] = {}
        for ticket in batch:
            waiting.setdefault(ticket.mode, []).append(ticket)
        deadline = max(ticket.deadline for ticket in batch)
        while waiting:
            if self._regressed:
                self._fail(batch, next(iter(self._regressed.values())))
                return
            totals = {
                mode: sum(ticket.count for ticket in tickets) for mode, tickets in waiting.items()
            }
            entries = self._entries(waiting) if self._with_entries else ()
            started = self._clock()
            if entries:
                try:
                    outcomes = self._store.advance(
                        totals,
                        self._floors,
                        repair=self._repair,
                        deadline=deadline,
                        entries=entries,
                    )
                except JournalMissing as error:
                    waiting = self._without_entries(waiting, error)
                    continue
            else:
                outcomes = self._store.advance(
                    totals, self._floors, repair=self._repair, deadline=deadline
                )
            self._batch = sum(map(len, waiting.values()))
            seconds = self._clock() - started
            self._observer.committed(self._batch, seconds)
            if log.isEnabledFor(logging.DEBUG):
                log.debug(Event("committed", batch=self._batch, duration=seconds, **_facts(totals)))
            again: dict[str, list[_Ticket]] = {}
            one_by_one: list[_Ticket] = []
            for mode, outcome in outcomes.items():
                tickets = waiting[mode]
                if isinstance(outcome, CounterExhausted):
                    if len(tickets) > 1 and any(ticket.entry for ticket in tickets):
                        # Those which need no IDs, since they had them before, are met all the same.
                        one_by_one += tickets
                        continue
                    again |= self._fitting(mode, tickets, outcome.available)
                elif isinstance(outcome, CounterRegressed):
                    self._note_regressed(outcome)
                    self._look_at_all()
                    again[mode] = tickets
                elif isinstance(outcome, ModeBusy):
                    self._defer(tickets, outcome)
                elif isinstance(outcome, UniqueIDError):
                    for ticket in tickets:
                        ticket.fail(outcome)
                elif entries and outcome.recorded:
                    self._hand_out_recorded(mode, tickets, outcome)
                else:
                    self._hand_out(mode, tickets, outcome)
            for ticket in one_by_one:
                self._commit([ticket])
            waiting = again

    @staticmethod
    def _entries(waiting: Mapping[str, list[_Ticket]]) -> list[Entry]:
        return [
            ticket.entry
            for tickets in waiting.values()
            for ticket in tickets
            if ticket.entry is not None
        ]

    @staticmethod
    def _without_entries(
        waiting: Mapping[str, list[_Ticket]], error: JournalMissing
    ) -> dict[str, list[_Ticket]]:
        """The requests that nobody wants recorded; the others fail."""
        rest: dict[str, list[_Ticket]] = {}
        for mode, tickets in waiting.items():
            for ticket in tickets:
                if ticket.entry is None:
                    rest.setdefault(mode, []).append(ticket)
                else:
                    ticket.fail(error)
        return rest

    def _hand_out(self, mode: str, tickets: list[_Ticket], advanced: Advanced) -> None:
        first = advanced.first
        total = 0
        for ticket in tickets:
            total += ticket.count
        # Before anybody gets an ID, or an error in between would leave it unguarded.
        if advanced.regressed:
            self._tell_regression(advanced.counter, advanced.found, first)
        self._floors[advanced.counter] = first + total
        for ticket in tickets:
            ticket.batch = self._batch
            ticket.give(first)
            first += ticket.count
        self._observer.handed_out(mode, len(tickets), total, first)
        if advanced.regressed:
            self._look_at_all()

    def _hand_out_recorded(self, mode: str, tickets: list[_Ticket], advanced: Advanced) -> None:
        """The same where some of them have entries, whose ranges the store has made."""
        first = advanced.first
        taken = sum(ticket.count for ticket in tickets) - advanced.spared
        if advanced.regressed:
            self._tell_regression(advanced.counter, advanced.found, first)
        if first + taken > 1:
            self._floors[advanced.counter] = first + taken
        next_id = first + taken
        placed = iter(advanced.recorded)
        met = replays = 0
        for ticket in tickets:
            ticket.batch = self._batch
            if ticket.entry is None:
                ticket.give(first)
                first += ticket.count
                met += 1
                continue
            fate = next(placed)
            if isinstance(fate, UniqueIDError):
                ticket.fail(fate)
                continue
            ticket.entry.replayed = fate.replayed
            replays += fate.replayed
            met += not fate.replayed
            ticket.give(fate.first)
        if met:
            self._observer.handed_out(mode, met, taken, next_id)
        if replays:
            self._observer.replayed(replays)
        if advanced.regressed:
            self._look_at_all()

    def _fitting(
        self, mode: str, tickets: list[_Ticket], available: int
    ) -> dict[str, list[_Ticket]]:
        """The requests which fit into what is left, first come first served; the others fail."""
        fitting = []
        left = available
        for ticket in tickets:
            if ticket.count <= left:
                left -= ticket.count
                fitting.append(ticket)
            else:
                ticket.fail(CounterExhausted(mode, ticket.count, left))
        return {mode: fitting} if fitting else {}

    def _defer(self, tickets: list[_Ticket], busy: ModeBusy) -> None:
        """Let those who wait for a locked counter wait on, without the others."""
        now = self._clock()
        for ticket in tickets:
            if ticket.deadline <= now:
                ticket.fail(DatabaseUnavailable(str(busy)))
            else:
                self._deferred.append(ticket)
        # A try may take as long as the database waits for a lock: as long is for the others.
        self._deferred_until = now + _LOOK_AGAIN

    def _prune_some(self, prune: Callable[[], int]) -> None:
        """Delete some entries of the journal whose time is over; a failure has time."""
        since = self._clock()
        self._in_flight = _Flight(since)
        try:
            pruned = prune()
        except DatabaseUnavailable as error:
            pruned = 0
            log.warning("old entries of the journal were not deleted: %s", error.cause)
        except Exception:
            pruned = 0
            log.exception("old entries of the journal were not deleted")
        finally:
            self._in_flight = None
        now = self._clock()
        if pruned:
            self._observer.pruned(pruned)
            self._prune_at = now + (now - since) / _PRUNE_SHARE
        else:
            self._prune_at = now + random.uniform(0.5, 1) * _PRUNE_EVERY

    # -- what went wrong ----------------------------------------------------------------------

    def _wait_for_database(self) -> None:
        """Try the database until it answers; requests are refused at once meanwhile."""
        while not self._closing.is_set():
            try:
                self._store.ping()
            except DatabaseUnavailable as error:
                self._down = error
                self._closing.wait(_LOOK_AGAIN)
            else:
                log.warning("the database answers again")
                break
        self._down = None

    def _tell_regression(self, mode: str, found: int, floor: int) -> None:
        log.error(
            Event(
                f"COUNTER WENT BACK: mode {mode!r}: the database says that the next ID is {found},"
                f" but IDs up to {floor - 1} were handed out. It was restored from a backup or"
                f" failed over to a replica that lagged. The counter is raised to {floor}; check"
                " what else the database has lost.",
                mode=mode,
                found=found,
                expected=floor,
            )
        )
        self._observer.regressed(mode)

    def _note_regressed(self, error: CounterRegressed) -> None:
        if error.mode not in self._regressed:
            log.error("COUNTER WENT BACK: %s. Until then every request is refused.", error)
            self._observer.regressed(error.mode)
        self._regressed[error.mode] = error
        # An entry of the journal may know of more than this process has handed out.
        self._floors[error.mode] = max(self._floors.get(error.mode, 1), error.expected)

    def _look_at_regressed(self) -> None:
        """See whether an operator has mended the counters."""
        now = self._clock()
        if now - self._looked < _LOOK_AGAIN:
            return
        self._looked = now
        low = self._low()
        for error in low.values():
            self._note_regressed(error)
        self._regressed = low
        if not low:
            log.warning("no counter is below what was handed out any more; requests are served")

    def _look_at_all(self) -> None:
        """Compare every counter with what was handed out of it, whoever asks for which."""
        low = self._low() if self._floors else {}
        if not low:
            return
        for error in low.values():
            if self._repair:
                self._tell_regression(error.mode, error.found, error.expected)
            else:
                self._note_regressed(error)
        if self._repair:
            deadline = self._clock() + self._timeout
            self._store.advance(dict.fromkeys(low, 0), self._floors, repair=True, deadline=deadline)

    def _low(self) -> dict[str, CounterRegressed]:
        """The counters below what was handed out of them."""
        return CounterRegressed.among(self._store.counters(), self._floors)
