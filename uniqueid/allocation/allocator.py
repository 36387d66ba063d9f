"""Group commit: many waiting requests, one transaction; and the high-water guard.

One committer thread takes whatever has arrived, adds it up per mode, has the store commit it once
and slices the ranges. What arrives meanwhile shares the next transaction, so a lone caller never
waits for company and a crowd costs one commit. A caller is woken only after the COMMIT.

Where callers come one at a time, each does its transaction in its own thread, if a single statement
is likely to do it: to hand it over to the committer and back takes as long as the statement itself.
Whoever uses the store has the turn; the committer gives it away while it waits for callers.

The guard: the allocator remembers the highest ID it has handed out of each counter. A database
that answers with less has gone back, and what it says is not believed.

Requests with an entry for the journal (`uniqueid.database.journal`), those with an idempotency key
among them, share the transactions of all others, and the store says which range each of them got.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from uniqueid.errors import (
    Closing,
    CounterExhausted,
    CounterRegressed,
    DatabaseUnavailable,
    JournalMissing,
    KeyInFlight,
    ModeBusy,
    Overloaded,
    Unavailable,
    Unexpected,
    UniqueIDError,
)
from uniqueid.logs import Event
from uniqueid.model import Allocation, AllocationRecord, CounterStore, CounterUpdate, Observer
from uniqueid.monitoring.incidents import Troubles
from uniqueid.runtime import threads

log = logging.getLogger(__name__)

# Seconds between two looks at a database that is down or has gone back, and between two tries of
# a counter that somebody else holds locked.
_LOOK_AGAIN = 1.0
# Seconds that a caller must be ready to wait, or the committer does its transaction.
_ALONE_FROM = 2.0
# Seconds after which those who wait beyond `crowd` are sent away.
_CROWD_PATIENCE = 1.0
# Seconds between two looks for entries of the journal whose time is over, when there were none,
# and the share of its time that the committer spends on deleting when there are.
_PRUNE_EVERY = 60.0
_PRUNE_SHARE = 0.1


class _Ticket:
    """One caller's request, on its way through the committer."""

    __slots__ = (
        "abandoned",
        "answered",
        "batch",
        "count",
        "deadline",
        "error",
        "first",
        "gate",
        "mode",
        "record",
        "replayed",
    )

    def __init__(
        self, mode: str, count: int, deadline: float, record: AllocationRecord | None = None
    ) -> None:
        self.mode = mode
        self.count = count
        self.deadline = deadline
        self.record = record
        self.replayed = False
        self.first = 0
        self.batch = 0
        self.error: Exception | None = None
        self.abandoned = False
        self.answered = False
        self.gate: threading.Lock | None = None
        """What it waits for; another one when it is moved to another group."""

    def give(self, first: int) -> None:
        self.first = first
        self.answered = True

    def fail(self, error: Exception) -> None:
        self.error = error
        self.answered = True


class _Group:
    """Callers who wait for the same transaction.

    :param lanes: how many of them wake at once. Each lane is one lock, which the committer frees
        once, and each caller that gets it frees it for the next. On one CPU a single lane is
        best: the callers wake one after the other, as fast as Python can run them, and do not
        queue up for Python's own lock all at once, which costs each of them several switches.
    """

    __slots__ = ("_gates", "_lanes", "tickets")

    def __init__(self, lanes: int) -> None:
        self.tickets: list[_Ticket] = []
        self._gates: list[threading.Lock] = []
        self._lanes = lanes

    def add(self, ticket: _Ticket) -> None:
        number = len(self.tickets)
        if number < self._lanes:
            gate = threading.Lock()
            gate.acquire()
            self._gates.append(gate)
        ticket.gate = self._gates[number % len(self._gates)]
        self.tickets.append(ticket)

    def let_go(self) -> None:
        """Wake all. Who has no answer by then was moved to another group before, and waits on."""
        for gate in self._gates:
            gate.release()

    def fail(self, error: Exception) -> int:
        """Answer all that have no answer yet with an error; how many those were."""
        waiting = [ticket for ticket in self.tickets if not ticket.answered]
        for ticket in waiting:
            ticket.fail(error)
        return len(waiting)


class _Flight:
    """A transaction under way, since a time of the clock."""

    __slots__ = ("since",)

    def __init__(self, since: float) -> None:
        self.since = since


def _facts(totals: Mapping[str, int]) -> dict[str, object]:
    return {"modes": ",".join(totals), "ids": sum(totals.values())}


class Allocator:
    """Hands out ranges, none twice.

    :param store: where the counters are; one thread at a time uses it.
    :param request_timeout: seconds that a caller waits at the most.
    :param queue_size: how many callers may wait.
    :param batch_size: how many of them share a transaction at the most.
    :param repair: whether a counter that went back is raised above the highest ID handed out
        (``on_regression = advance``), or every request is refused until that was done by hand.
    :param crowd: how many callers may wait for longer than a second. Each holds a thread of the
        server, which needs some for /livez, /readyz and /metrics just when the database hangs.
    :param prune: deletes some entries of the journal whose time is over, and says how many; the
        committer calls it between two transactions.
    :param troubles: where it is told that the database is away; shared with the watch.
    :param floors: counter to the lowest ID that may still be handed out, where the store brings
        some along from earlier (`uniqueid.fence.store`): one object, which both of them fill.
    """

    def __init__(
        self,
        store: CounterStore,
        *,
        request_timeout: float = 10,
        queue_size: int = 1000,
        batch_size: int = 500,
        repair: bool = True,
        crowd: int | None = None,
        prune: Callable[[], int] | None = None,
        floors: dict[str, int] | None = None,
        observer: Observer | None = None,
        troubles: Troubles | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._troubles = troubles or Troubles()
        self._timeout = request_timeout
        self._queue_size = queue_size
        self._batch_size = batch_size
        self._repair = repair
        self._crowd = crowd
        self._callers: set[_Ticket] = set()
        self._crowd_lock = threading.Lock()
        self._prune = prune
        self._prune_at = clock() + random.uniform(0, _PRUNE_EVERY)
        self._keys: dict[tuple[str, str], int] = {}
        self._keys_lock = threading.Lock()
        self._observer = observer or Observer()
        self._clock = clock
        self._groups: deque[_Group] = deque()
        self._queued = 0
        self._arrived = threading.Condition(threading.Lock())
        self._one_cpu = False
        self._deferred = _Group(1)
        self._deferred_until = 0.0
        self._fenced = floors is not None
        self._floors: dict[str, int] = {} if floors is None else floors
        self._regressed: dict[str, CounterRegressed] = {}
        self._exhausted: set[str] = set()
        self._looked = 0.0
        self._connections = 0
        self._group: _Group | None = None
        self._batch = 0
        self._down: Unavailable | None = None
        self._in_flight: _Flight | None = None
        self._stalled: _Flight | None = None
        self._closing = threading.Event()
        self._turn = threading.Lock()
        self._main: int | None = None
        # Waiting for a lock, a statement may take longer than a shorter time than this.
        self._may_be_alone = request_timeout >= _ALONE_FROM
        self._alone = False
        """Whether the last transaction had one caller and nothing else is going on, so that the
        next one is likely to be alone as well."""
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    # -- for callers, from any thread ---------------------------------------------------------

    def start(self, *, one_cpu: bool = False) -> None:
        """Start the committer, once; a process that forks does it after the fork.

        :param one_cpu: whether all threads of this process run on the same CPU.
        """
        with self._starting:
            if self._thread is None:
                self._one_cpu = one_cpu
                self._main = threading.main_thread().ident
                self._thread = threads.start(self._run, "committer")

    def allocate(
        self,
        mode: str,
        count: int,
        record: AllocationRecord | None = None,
    ) -> Allocation:
        """Take `count` IDs of a mode for this caller alone.

        :param record: what to record of it. With an idempotency key the answer may be the range of
            an earlier request.
        :returns: the range. The database has it on disk.
        :raises CounterExhausted, TooManyModes, ModeNotStorable: this request can't be met.
        :raises CounterRegressed: the database went back and nobody has mended it yet.
        :raises KeyReused: the key was used for another request.
        :raises KeyInFlight: the key's earlier request has no answer yet.
        :raises JournalMissing: there is a record and no table for it.
        :raises Overloaded, Unavailable, Closing: not now. After the second the IDs may have been
            taken from the counter; nobody will get them.
        """
        if record is not None and record.identity is not None:
            return self._allocate_once(mode, count, record, record.identity)
        return self._allocate(mode, count, record)

    def _allocate_once(
        self,
        mode: str,
        count: int,
        record: AllocationRecord,
        identity: tuple[str, str],
    ) -> Allocation:
        """The same with a key, which another caller may wait with at the same time."""
        with self._keys_lock:
            earlier = self._keys.get(identity, 0)
            self._keys[identity] = earlier + 1
        try:
            return self._allocate(mode, count, record)
        except Unavailable as error:
            if earlier:
                raise KeyInFlight(identity[0]) from error
            raise
        finally:
            with self._keys_lock:
                self._keys[identity] -= 1
                if not self._keys[identity]:
                    del self._keys[identity]

    def _allocate(self, mode: str, count: int, record: AllocationRecord | None) -> Allocation:
        if self._thread is None:
            self.start()
        down = self.down
        if down is not None:
            raise down
        now = self._clock()
        if self._crowd is not None and len(self._callers) >= self._crowd and self._slow(now):
            raise Overloaded(self._crowd)
        ticket = _Ticket(mode, count, now + self._timeout, record)
        # Adding to a set is one step for CPython's threads, and cheaper than a lock.
        self._callers.add(ticket)
        try:
            if self._alone and record is None and self._met_alone(ticket):
                return Allocation(ticket.first, ticket.batch, ticket.replayed)
            self._enqueue(ticket)
            if not self._answered(ticket):
                raise self._give_up(ticket)
        finally:
            self._callers.discard(ticket)
        if ticket.error is not None:
            # One error may go to many callers; each starts a traceback of its own.
            raise ticket.error.with_traceback(None)
        return Allocation(ticket.first, ticket.batch, ticket.replayed)

    def _met_alone(self, ticket: _Ticket) -> bool:
        """Move the counter on in this thread, if nobody else is there; whether that was done.

        For no longer than one statement takes. What does not go smoothly is the committer's to try
        and to judge.

        :raises DatabaseUnavailable: when the statement had no answer up to the deadline.
        """
        # Signals come to the main thread, where a KeyboardInterrupt could end it in mid-statement.
        if threading.get_ident() == self._main or not self._turn.acquire(blocking=False):
            return False
        try:
            if not self._alone or self._groups or len(self._callers) > 1:
                return False
            if self._store.connections != self._connections:
                return False
            since = self._clock()
            self._in_flight = _Flight(since)
            try:
                advanced = self._store.advance_alone(ticket.mode, ticket.count, self._floors)
            except Exception:
                log.exception("a transaction in its caller's thread failed; it is tried again")
                advanced = None
            finally:
                self._in_flight = None
            seconds = self._clock() - since
            if advanced is None:
                self._alone = False
            else:
                ticket.batch = self._batch = 1
                self._hand_out(ticket.mode, [ticket], advanced)
                self._committed(1, seconds, {ticket.mode: ticket.count})
        finally:
            self._turn.release()
        if advanced is None and self._clock() >= ticket.deadline:
            ticket.abandoned = True
            raise self._no_answer_alone()
        return advanced is not None

    def _no_answer_alone(self) -> DatabaseUnavailable:
        """Have the committer see whether the database answers; others are refused until it does."""
        with self._arrived:
            self._down = self._no_answer()
            self._arrived.notify()
        return self._no_answer()

    def _enqueue(self, ticket: _Ticket) -> None:
        with self._arrived:
            if self._closing.is_set():
                raise Closing
            if self._queued >= self._queue_size:
                raise Overloaded(self._queue_size)
            self._queued += 1
            groups = self._groups
            if not groups or len(groups[-1].tickets) >= self._batch_size:
                groups.append(self._new_group())
                self._arrived.notify()
            groups[-1].add(ticket)

    def _new_group(self) -> _Group:
        return _Group(1 if self._one_cpu else self._batch_size)

    def _answered(self, ticket: _Ticket) -> bool:
        """Wait for the answer, up to the deadline, or for a second where there is a crowd.

        :raises Overloaded: when this caller is one too many.
        """
        if self._crowd is None or self._timeout <= _CROWD_PATIENCE:
            return self._wait(ticket, ticket.deadline)
        if self._wait(ticket, ticket.deadline - self._timeout + _CROWD_PATIENCE):
            return True
        # One by one, so that no more leave than have to.
        with self._crowd_lock:
            if len(self._callers) > self._crowd:
                ticket.abandoned = True
                self._callers.discard(ticket)
                raise Overloaded(self._crowd)
        return self._wait(ticket, ticket.deadline)

    def _wait(self, ticket: _Ticket, until: float) -> bool:
        """Wait for the answer, up to a time of the clock; whether it came."""
        while True:
            gate = ticket.gate
            assert gate is not None
            if not gate.acquire(timeout=max(0, until - self._clock())):
                return ticket.answered
            gate.release()
            if ticket.answered:
                return True
            # It was moved to another group.

    def _slow(self, now: float) -> bool:
        """Whether those who wait have done so for a second."""
        flight = self._in_flight
        stuck = flight is not None and now - flight.since >= _CROWD_PATIENCE
        return stuck or bool(self._deferred.tickets)

    @property
    def waiting(self) -> int:
        """How many callers wait for a transaction to begin."""
        return self._queued + len(self._deferred.tickets)

    @property
    def alive(self) -> bool:
        """Whether the committer runs, or will with the first request."""
        return self._thread is None or self._thread.is_alive()

    @property
    def down(self) -> Unavailable | None:
        """Why requests are refused at once, while the database or the fence is away."""
        down = self._down
        if down is not None:
            # One for each caller, with a traceback of its own.
            return type(down)(down.cause, tables=down.tables)
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
        with self._arrived:
            self._closing.set()
            self._arrived.notify()
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

    def _fail_queued(self, error: Exception) -> None:
        with self._arrived:
            groups, self._groups = self._groups, deque()
            self._queued = 0
        for group in groups:
            group.fail(error)
            group.let_go()

    # -- the committer ------------------------------------------------------------------------

    def _run(self) -> None:
        # For good, but for the waiting in _collect: nobody uses the store after this thread.
        self._turn.acquire()
        try:
            last = False
            if self._fenced:
                # What was handed out before the start is compared before anybody asks.
                self._commit_guarded(None)
                self._wait_while_down()
            while not last:
                group, last = self._collect()
                self._commit_guarded(group)
                if not last:
                    self._wait_while_down()
                    if self._prune is not None and self._clock() >= self._prune_at:
                        self._prune_some(self._prune)
        finally:
            # Nobody comes in any more, whatever ended this thread.
            with self._arrived:
                self._closing.set()
            self._fail_queued(Closing())
            self._store.disconnect()

    def _collect(self) -> tuple[_Group | None, bool]:
        """Wait for a group of requests; and whether no other can follow.

        No group when it is time to look at the database again.
        """
        deferred = self._deferred.tickets
        patience = self._deferred_until - self._clock() if deferred else None
        if self._regressed:
            patience = _LOOK_AGAIN if patience is None else min(patience, _LOOK_AGAIN)
        if self._prune is not None:
            until = self._prune_at - self._clock()
            patience = until if patience is None else min(patience, until)
        with self._arrived:
            idle = not (self._groups or self._closing.is_set() or self._down)
            if idle:
                self._turn.release()
                self._arrived.wait(None if patience is None else max(0, patience))
        if idle:
            # First: a caller who is alone goes before whoever waits.
            self._alone = False
            self._turn.acquire()
        with self._arrived:
            closing = self._closing.is_set() and not self._groups
        if deferred and (closing or self._clock() >= self._deferred_until):
            # Apart from the rest, which would wait for the lock with them.
            group, self._deferred = self._deferred, self._new_group()
            return self._without_abandoned(group), False
        if self._one_cpu:
            self._let_in()
        with self._arrived:
            if not self._groups:
                return None, closing
            group = self._groups.popleft()
            self._queued -= len(group.tickets)
        if deferred:
            busy = {ticket.mode for ticket in deferred}
            for ticket in group.tickets:
                if ticket.mode in busy:
                    self._deferred.add(ticket)
            group.tickets = [ticket for ticket in group.tickets if ticket.mode not in busy]
        return self._without_abandoned(group), False

    @staticmethod
    def _without_abandoned(group: _Group) -> _Group:
        group.tickets = [ticket for ticket in group.tickets if not ticket.abandoned]
        return group

    def _let_in(self) -> None:
        """Give way to the threads that could run, until none of them brings another request.

        On one CPU they all wait for this one, so this is who is at the door already, and no time
        passes when there is nobody.
        """
        queued = -1
        while queued != self._queued:
            queued = self._queued
            os.sched_yield()

    def _commit_guarded(self, group: _Group | None) -> None:
        """Commit a group and answer every ticket of it, whatever happens."""
        self._in_flight = _Flight(self._clock())
        self._group = group
        try:
            if self._regressed:
                self._look_at_regressed()
            if group is not None and group.tickets:
                self._commit(group)
            self._compare_new_session()
        except Unavailable as error:
            self._down = error
            self._tell_down(error)
            self._fail_group(error)
            self._fail_queued(error)
        except Exception:
            reference = uuid.uuid4().hex
            failed = self._fail_group(Unexpected(reference))
            log.exception("a batch of %d requests failed, reference %s", failed, reference)
        finally:
            self._in_flight = None
            self._alone = (
                self._may_be_alone
                and self._batch == 1
                and self._down is None
                and not self._regressed
                and not self._deferred.tickets
            )
            self._answer_group()

    def _fail_group(self, error: Exception) -> int:
        return 0 if self._group is None else self._group.fail(error)

    def _answer_group(self, rest: Iterable[_Ticket] = ()) -> None:
        """Wake those who have an answer; the rest is the group that the committer has then."""
        group, self._group = self._group, None
        tickets = list(rest)
        if tickets:
            self._group = self._new_group()
            for ticket in tickets:
                self._group.add(ticket)
        if group is not None:
            group.let_go()

    def _commit(self, group: _Group) -> None:
        deadline = max(ticket.deadline for ticket in group.tickets)
        pending = [group.tickets]
        while pending and not self._regressed:
            tickets = pending.pop(0)
            waiting: dict[str, list[_Ticket]] = {}
            for ticket in tickets:
                waiting.setdefault(ticket.mode, []).append(ticket)
            totals = {
                mode: sum([ticket.count for ticket in asked]) for mode, asked in waiting.items()
            }
            started = self._clock()
            records = [ticket.record for ticket in tickets if ticket.record is not None]
            try:
                outcomes = self._store.advance(
                    totals,
                    self._floors,
                    repair=self._repair,
                    deadline=deadline,
                    records=records,
                )
            except JournalMissing as error:
                rest = self._without_records(tickets, error)
                pending = [rest, *pending] if rest else pending
                self._answer_group(ticket for batch in pending for ticket in batch)
                continue
            self._batch = len(tickets)
            seconds = self._clock() - started
            self._tell_up()
            self._compare_new_session()
            if self._regressed:
                # Under "stop". What was committed is a gap.
                continue
            again, went_back = self._settle(waiting, outcomes)
            pending = again + pending
            self._committed(self._batch, seconds, totals)
            self._answer_group(ticket for batch in pending for ticket in batch)
            if went_back:
                self._look_at_all()
        if self._regressed:
            self._fail_group(next(iter(self._regressed.values())))

    def _committed(self, batch: int, seconds: float, totals: Mapping[str, int]) -> None:
        self._observer.committed(batch, seconds)
        if log.isEnabledFor(logging.DEBUG):
            log.debug(Event("committed", batch=batch, duration=seconds, **_facts(totals)))

    @staticmethod
    def _without_records(tickets: list[_Ticket], error: JournalMissing) -> list[_Ticket]:
        """The requests that nobody wants recorded; the others fail."""
        for ticket in tickets:
            if ticket.record is not None:
                ticket.fail(error)
        return [ticket for ticket in tickets if ticket.record is None]

    def _settle(
        self,
        waiting: Mapping[str, list[_Ticket]],
        outcomes: Mapping[str, CounterUpdate | UniqueIDError],
    ) -> tuple[list[list[_Ticket]], bool]:
        """Give each request what became of it.

        :returns: those that need another transaction, each list one of its own, and whether a
            counter had gone back.
        """
        again: list[_Ticket] = []
        one_by_one: list[list[_Ticket]] = []
        went_back = False
        for mode, outcome in outcomes.items():
            tickets = waiting[mode]
            if isinstance(outcome, CounterExhausted):
                if len(tickets) > 1 and any(ticket.record is not None for ticket in tickets):
                    # Whose key had its range before needs no IDs, and is met all the same.
                    one_by_one += [[ticket] for ticket in tickets]
                else:
                    again += self._fitting(mode, tickets, outcome.available)
            elif isinstance(outcome, CounterRegressed):
                self._note_regressed(outcome)
                went_back = True
                again += tickets
            elif isinstance(outcome, ModeBusy):
                self._defer_busy(tickets, outcome)
            elif isinstance(outcome, UniqueIDError):
                for ticket in tickets:
                    ticket.fail(outcome)
            elif outcome.records:
                self._hand_out_recorded(mode, tickets, outcome)
                went_back |= outcome.regressed
            else:
                self._hand_out(mode, tickets, outcome)
                went_back |= outcome.regressed
        return ([again] if again else []) + one_by_one, went_back

    def _hand_out(self, mode: str, tickets: list[_Ticket], advanced: CounterUpdate) -> None:
        """Give each request its range, of a counter that was moved on by as much as they need."""
        first = advanced.first
        total = sum([ticket.count for ticket in tickets])
        # Before anybody gets an ID, or an error in between would leave it unguarded.
        if advanced.regressed:
            self._tell_regression(advanced.counter, advanced.database_next_id, first)
        self._floors[advanced.counter] = first + total
        for ticket in tickets:
            ticket.batch = self._batch
            ticket.give(first)
            first += ticket.count
        self._observer.allocated(mode, len(tickets), total, first)

    def _hand_out_recorded(
        self, mode: str, tickets: list[_Ticket], advanced: CounterUpdate
    ) -> None:
        """The same where some of them have entries, whose ranges the store has made."""
        first = advanced.first
        if advanced.regressed:
            self._tell_regression(advanced.counter, advanced.database_next_id, first)
        next_id = advanced.next_id
        if next_id > 1:
            self._floors[advanced.counter] = next_id
        placed = iter(advanced.records)
        met = replays = 0
        for ticket in tickets:
            ticket.batch = self._batch
            if ticket.record is None:
                ticket.give(first)
                first += ticket.count
                met += 1
                continue
            fate = next(placed)
            if isinstance(fate, UniqueIDError):
                ticket.fail(fate)
                continue
            ticket.replayed = fate.replayed
            replays += fate.replayed
            met += not fate.replayed
            ticket.give(fate.first)
        if met:
            self._observer.allocated(mode, met, advanced.count, next_id)
        if replays:
            self._observer.replayed(replays)

    def _fitting(self, mode: str, tickets: list[_Ticket], available: int) -> list[_Ticket]:
        """The requests which fit into what is left, first come first served; the others fail."""
        fitting = []
        left = available
        for ticket in tickets:
            if ticket.count <= left:
                left -= ticket.count
                fitting.append(ticket)
            else:
                error = CounterExhausted(mode, ticket.count, left)
                ticket.fail(error)
                if mode not in self._exhausted:
                    self._exhausted.add(mode)
                    log.warning("%s; what does not fit is refused with 409", error)
        return fitting

    def _defer_busy(self, tickets: list[_Ticket], busy: ModeBusy) -> None:
        """Let those who wait for a locked counter wait on, without the others."""
        now = self._clock()
        for ticket in tickets:
            if ticket.deadline <= now:
                ticket.fail(DatabaseUnavailable(str(busy)))
            else:
                self._deferred.add(ticket)
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

    def _wait_while_down(self) -> None:
        """Try the database until it answers; requests are refused at once meanwhile."""
        away = False
        while self._down is not None and not self._closing.is_set():
            try:
                self._store.ping()
            except Unavailable as error:
                self._tell_down(error)
                self._down = error
                away = True
                self._closing.wait(_LOOK_AGAIN)
            else:
                if away:
                    self._tell_up()
                # Else it answers and yet failed, as with a full disk: a transaction will tell.
                break
        self._down = None

    def _tell_down(self, error: Unavailable) -> None:
        if not isinstance(error, DatabaseUnavailable):
            self._troubles.fence.found("committer", str(error))
            return
        trouble = self._troubles.tables if error.tables else self._troubles.database
        trouble.found("committer", error.cause)

    def _tell_up(self) -> None:
        self._troubles.fence.ended("committer")
        self._troubles.database.ended("committer")
        self._troubles.tables.ended("committer")

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

    def _compare_new_session(self) -> None:
        """Compare all counters with their high-water marks once after each new database session.

        Invariant: no request is completed on a session before that. The session may lead to another
        server, or to one that was restored.
        """
        while self._connections != self._store.connections:
            # Read first: the comparison may need yet another session, which is compared as well.
            connections = self._store.connections
            self._look_at_all()
            self._connections = connections

    def _look_at_all(self) -> None:
        """Compare every counter with what was handed out of it, whoever asks for which."""
        low = self._low() if self._floors or self._fenced else {}
        if not low:
            return
        if not self._repair:
            for error in low.values():
                self._note_regressed(error)
            return
        deadline = self._clock() + self._timeout
        outcomes = self._store.advance(
            dict.fromkeys(low, 0), self._floors, repair=True, deadline=deadline
        )
        # What could not be raised now is told when it is.
        for outcome in outcomes.values():
            if not isinstance(outcome, UniqueIDError) and outcome.regressed:
                self._tell_regression(outcome.counter, outcome.database_next_id, outcome.first)

    def _low(self) -> dict[str, CounterRegressed]:
        """The counters below what was handed out of them."""
        return CounterRegressed.among(self._store.counters(), self._floors, self._store.find)
