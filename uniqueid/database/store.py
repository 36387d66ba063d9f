"""The counters in the database; one call, one serializable transaction.

Where a call moves one counter that nobody else moves, the transaction is a single guarded UPDATE on
Pony's connection, which the database commits by itself: one round trip, and no session of Pony's.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from pony.orm import Database, PrimaryKey, Required, db_session

from uniqueid.database.dialects import DIALECTS
from uniqueid.database.dialects.base import LOCK_WAIT
from uniqueid.database.durability import DurabilityMonitor
from uniqueid.database.equal_modes import EqualModes
from uniqueid.database.errors import TRANSIENT, Cause, LostUpdate, classify, explain, is_rejected
from uniqueid.database.journal import Journal, Plan, Record
from uniqueid.database.url import DatabaseURL
from uniqueid.errors import (
    MAX_ID,
    SYNC,
    CounterExhausted,
    CounterRegressed,
    DatabaseUnavailable,
    JournalMissing,
    ModeBusy,
    ModeNotStorable,
    TooManyModes,
    UniqueIDError,
    UnsafeSession,
)
from uniqueid.model import AllocationRecord, CounterUpdate, now

log = logging.getLogger(__name__)

# The first wait after a conflict, and the longest: full jitter (AWS Architecture Blog,
# "Exponential Backoff And Jitter") between 0 and the doubled step. A lost connection waits longer.
_BACKOFF_START = 0.005
_BACKOFF_CONFLICT = 0.1
_BACKOFF_CONNECTION = 1.0
# Single statements after which a MySQL session is changed to commit each of them by itself.
_SINGLE_BEFORE_CHANGE = 4
_NEW_COUNTER = "new_counter"


Outcome = CounterUpdate | UniqueIDError
"""What became of one mode: moved on, or refused alone while the others went through."""


@dataclass(slots=True)
class _Left:
    """Where this store left a counter."""

    counter: str
    next_id: int
    alone: bool
    """Whether nobody else had moved it between the last two times."""


class _OneMode(Exception):
    """The transaction cannot be done with this mode in it."""

    def __init__(self, outcome: UniqueIDError, mode: str) -> None:
        self.outcome = outcome
        self.mode = mode


class _LookFirst(Exception):
    """A request that would be refused may have been met before: its key has to be looked up."""


class Store:
    """One database with its entities.

    :param url: where it is.
    :param max_modes: how many counters requests may create.
    :param create: whether SQLite may make its file.
    :param timeout: seconds for a connection to be made and for an answer to a statement.
    :param on_retry: told the cause of each transaction that is tried again.
    :param durability: takes the result of the checks in each new session.
    """

    def __init__(
        self,
        url: DatabaseURL,
        *,
        max_modes: int = 10_000,
        create: bool = False,
        timeout: float = 10,
        on_retry: Callable[[Cause], None] = lambda cause: None,
        durability: DurabilityMonitor | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url
        self.dialect = DIALECTS[url.kind]
        self.max_modes = max_modes
        self.connections = 0
        """How many connections were made so far: a new one may lead to another server."""
        self._create = create
        # Longer than a statement may wait for a lock.
        self._timeout = max(LOCK_WAIT + 1, timeout)
        self._on_retry = on_retry
        self._durability = durability or DurabilityMonitor()
        self._clock = clock
        self._sleep = sleep
        self._left: dict[str, _Left] = {}
        self._single = 0
        self._opened = False
        self._opening = threading.Lock()
        self._transact = db_session(serializable=True)(self._advance_all)
        self._transact_recorded = db_session(serializable=True)(self._advance_recorded)
        self._read = db_session(self._select_counters)
        self._ask = db_session(self._ping)
        self._check = db_session(self._check_session)
        self._new_database()

    def _new_database(self) -> None:
        self.database = Database()

        class Counter(self.database.Entity):  # type: ignore[name-defined, misc]
            """A mode and its next ID, in the table of every release."""

            _table_ = "uniqueindex"
            mode = PrimaryKey(str, 255, column="id", autostrip=False)
            next_id = Required(int, size=64, column="index")

        class SystemPart(self.database.Entity):  # type: ignore[name-defined, misc]
            """A part of the schema's version: major or minor."""

            _table_ = "uniqueindexsystem"
            part = PrimaryKey(str, 255, column="part")
            value = Required(int, column="value")

        @self.database.on_connect()  # type: ignore[untyped-decorator]
        def count(_database: Any, _connection: Any) -> None:
            self.connections += 1
            if self._opened:
                self._equal_modes.forget()

        self.Counter = Counter
        self.SystemPart = SystemPart

    # -- life ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Bind the entities to the database, which makes a first connection; once is enough.

        :raises DatabaseUnavailable: when it cannot be reached or refuses.
        """
        with self._opening:
            if self._opened:
                return
            provider, arguments = self.dialect.binding(
                self.url,
                create=self._create,
                connect_timeout=min(self._timeout, 5),
                answer_timeout=self._timeout,
                durability=self._durability,
            )
            try:
                self.database.bind(provider, **arguments)
            except Exception as error:
                raise self._unavailable(error) from error
            self.database.generate_mapping(check_tables=False)
            self._prepare_sql()
            self.journal = Journal(self.database, self.dialect)
            self._equal_modes = EqualModes(self.database, self.dialect)
            self._journal_found = False
            self._opened = True

    def _prepare_sql(self) -> None:
        quote = self.dialect.quote
        table, key, value = quote("uniqueindex"), quote("id"), quote("index")
        lock = self.dialect.row_lock
        self._select = f"SELECT {key}, {value} FROM {table} WHERE {key} = $mode{lock}"
        self._insert = f"INSERT INTO {table} ({key}, {value}) VALUES ($mode, $next_id)"
        # Guarded by the value that was read: if the lock was lost in between, nothing is written.
        update = f"UPDATE {table} SET {value} = {{}} WHERE {key} = {{}} AND {value} = {{}}"
        self._update = update.format("$next_id", "$mode", "$found")
        # The same for the driver itself, without Pony.
        mark = self.dialect.placeholder
        self._update_alone = update.format(mark, mark, mark)
        # The keys by themselves as well, so that no database reads any other row.
        values = self.dialect.row_values
        self._update_all = (
            f"UPDATE {table} SET {value} = {value} + {{added}}"
            f" WHERE {key} IN ({{modes}}) AND ({key}, {value}) IN ({values}{{found}})"
        )
        self._case = f"CASE {key} {{counts}} END"
        self._mark = mark
        self._count = f"SELECT COUNT(*) FROM {table}"
        self._all = f"SELECT {key}, {value} FROM {table} ORDER BY {key}"

    def connect(self, attempts: int, wait: float) -> None:
        """Open the database, with patience for one that is still starting.

        :param attempts: how often to try; `wait` seconds lie between two.
        :raises DatabaseUnavailable: after the last attempt; at once where the server rejects the
            user, the password or the database's name, and for an SQLite file that can't be opened
            for another reason than that somebody else has it locked.
        :raises SchemaError: when there is no SQLite file.
        """
        self.dialect.check_before_connect(self.url, self._create)
        for attempt in range(1, attempts + 1):
            try:
                self.open()
                log.info(
                    "database %s reached at attempt %d of %d",
                    self.url,
                    attempt,
                    attempts,
                )
                return
            except UnsafeSession:
                # Waiting changes no variable.
                raise
            except DatabaseUnavailable as error:
                if not self.dialect.may_recover(classify(error.__cause__ or error)):
                    cause = f"{self.url.database} cannot be opened: {error.cause}"
                    raise DatabaseUnavailable(cause) from error
                if error.__cause__ is not None and is_rejected(error.__cause__):
                    cause = f"database {self.url} rejects the connection: {error.cause}"
                    raise DatabaseUnavailable(cause) from error
                log.warning(
                    "database %s not reached at attempt %d of %d: %s",
                    self.url, attempt, attempts, error.cause,
                )  # fmt: skip
                if attempt == attempts:
                    raise
            self._sleep(wait)

    def disconnect(self) -> None:
        """Close this thread's connection; the next call makes a new one."""
        self.database.disconnect()

    # -- reading ------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """Each mode and its next ID.

        :raises DatabaseUnavailable: when the database does not answer.
        """
        return self._once(self._read)  # type: ignore[no-any-return]

    def find(self, names: Collection[str]) -> dict[str, int]:
        """The next ID of each of the counters with these names, as the database compares names.

        :returns: by the name that was asked for, without those that have no counter.
        :raises DatabaseUnavailable: when the database does not answer.
        """
        return self._once(lambda: self._equal_modes.find(names))  # type: ignore[no-any-return]

    def ping(self) -> None:
        """Ask the database for the least answer.

        :raises DatabaseUnavailable: when it gives none.
        """
        self._once(self._ask)

    def check_session(self) -> None:
        """Check the settings of this thread's session, and its server's, again.

        :raises DatabaseUnavailable: when they may not be used, or the database does not answer.
        """
        self._once(self._check)

    def _once(self, question: Callable[[], Any]) -> Any:
        """Ask, and once more if the connection turns out to have been lost since the last use."""
        self.open()
        for last in (False, True):
            try:
                return question()
            except UniqueIDError:
                raise
            except Exception as error:
                if classify(error) is Cause.CONNECTION:
                    self.disconnect()
                    if not last:
                        continue
                raise self._unavailable(error) from error
        raise AssertionError("unreachable")

    def _select_counters(self) -> dict[str, int]:
        # Not execute(), which takes SQLite's lock for writing.
        return dict(self.database.select(self._all, {}, {}))

    def _ping(self) -> None:
        self.database.select("SELECT 1", {}, {})

    def _check_session(self) -> None:
        with closing(self.database.get_connection().cursor()) as cursor:
            self._durability.report(self.dialect.check_session(cursor))

    def need_journal(self) -> None:
        """See that there is a table for entries.

        :raises JournalMissing: when there is none.
        :raises DatabaseUnavailable: when the database does not answer.
        """
        self._once(self._need_journal)

    def _need_journal(self) -> None:
        if not self._journal_found:
            self._journal_found = self.journal.exists()
        if not self._journal_found:
            raise JournalMissing

    # -- advancing ----------------------------------------------------------------------------

    def advance(
        self,
        totals: Mapping[str, int],
        high_water_marks: Mapping[str, int],
        *,
        repair: bool = True,
        deadline: float,
        records: Sequence[AllocationRecord] = (),
    ) -> dict[str, Outcome]:
        """Move counters on in one serializable transaction, all of them or none.

        When this returns, what it says has been committed; no other call, in this process or
        another, gets any of the same IDs. After an exception the caller cannot know whether the
        database did it, and must take the IDs for lost.

        :param totals: mode to how many IDs, those of records included; 0 writes only where
            `high_water_marks` asks for it.
        :param high_water_marks: counter to the lowest ID that may still be allocated. Where the
            database has less, it went back.
        :param repair: raise a counter that went back; False refuses its mode.
        :param deadline: on the store's clock; there is no further try after it.
        :param records: requests to be recorded in the same transaction (`database.journal`).
        :returns: for each mode what became of it. A refused mode changes nothing.
        :raises DatabaseUnavailable: when it could not be done before the deadline.
        :raises JournalMissing: when there are records and no table for them.
        """
        refused: dict[str, Outcome] = {}
        attempt = 0
        look = False
        while True:
            wanted = {mode: count for mode, count in totals.items() if mode not in refused}
            try:
                self.open()
                if len(wanted) == 1 and not records:
                    ((mode, count),) = wanted.items()
                    advanced = self._move_alone(mode, count, high_water_marks)
                    if advanced is not None:
                        return {mode: advanced, **refused}
                else:
                    self._single = 0
                room = self._room(wanted, high_water_marks)
                if not records:
                    outcomes = self._transact(wanted, high_water_marks, repair, room)
                else:
                    self._need_journal()
                    known = self.journal.find(records) if look else None
                    outcomes = self._transact_recorded(
                        wanted, high_water_marks, repair, room, records, known
                    )
                self._remember(outcomes)
                return {**outcomes, **refused}
            except _OneMode as error:
                refused[error.mode] = error.outcome
                if isinstance(error.outcome, ModeBusy):
                    self._on_retry(Cause.LOCK_TIMEOUT)
            except _LookFirst:
                look = True
            except DatabaseUnavailable as error:
                self._pause(attempt, Cause.CONNECTION, deadline, error)
                attempt += 1
            except Exception as error:
                cause = classify(error)
                if cause is None:
                    raise
                if cause not in TRANSIENT:
                    # Whatever it was, the table is looked for again.
                    self._journal_found = False
                    self.disconnect()
                    raise self._unavailable(error) from error
                if records and not look:
                    look = True
                    if cause is Cause.DUPLICATE_KEY:
                        # A key that was used before, most likely: no conflict.
                        continue
                if cause is Cause.CONNECTION:
                    self.disconnect()
                self._pause(attempt, cause, deadline, error)
                attempt += 1

    def advance_alone(
        self, mode: str, count: int, high_water_marks: Mapping[str, int]
    ) -> CounterUpdate | None:
        """Move one counter on, if one statement on the open connection is likely to do it.

        For a caller who cannot wait longer than for the answer to one statement.

        :returns: None when `advance` has to be asked. Where it is not known whether the database
            did it, these IDs are lost.
        """
        if not self._opened:
            return None
        try:
            return self._move_alone(mode, count, high_water_marks)
        except _OneMode:
            self._on_retry(Cause.LOCK_TIMEOUT)
        except DatabaseUnavailable:
            # SQLite's file is another one, and has no safe session.
            return None
        except Exception as error:
            cause = classify(error)
            if cause is None:
                raise
            if cause is Cause.CONNECTION or cause not in TRANSIENT:
                self.disconnect()
            self._on_retry(cause)
        except BaseException:
            # Whoever ends this thread: the answer that it did not take is nobody else's.
            self.disconnect()
            raise
        return None

    def _move_alone(
        self, mode: str, count: int, high_water_marks: Mapping[str, int]
    ) -> CounterUpdate | None:
        """Move a counter on from where this store left it, which spares reading it, and in a
        statement that is a transaction of its own, which spares BEGIN and COMMIT.

        Nothing is written, and the answer is None, unless the counter is exactly there. While
        somebody else moves it as well, it is not tried.
        """
        left = self._expected(mode, count, high_water_marks)
        if left is None:
            self._single = 0
            return None
        provider = self.database.provider
        if provider.pool.con is None:
            # Not here: it can take long.
            return None
        next_id = left.next_id + count
        connection = None
        try:
            connection, is_new = provider.connect()
            if is_new:
                # SQLite's file is another one: whoever sees the number looks at the counters.
                self.connections += 1
                return None
            if self.dialect.autocommit_costs_round_trip and not connection.get_autocommit():
                # To change that takes a round trip, which has to pay.
                self._single += 1
                if self._single < _SINGLE_BEFORE_CHANGE:
                    return None
            provider.alone(connection)
            cursor = connection.cursor()
            provider.execute(cursor, self._update_alone, (next_id, mode, left.next_id))
        except Exception as error:
            # Wherever the counter is now.
            self._left.pop(mode, None)
            self._raise_for_mode(mode, error)
            raise
        finally:
            if connection is not None:
                provider.end_alone(connection)
        if cursor.rowcount != 1:
            left.alone = False
            return None
        self._left[mode] = _Left(left.counter, next_id, True)
        return CounterUpdate(left.counter, left.next_id, count, left.next_id)

    def _raise_for_mode(self, mode: str, error: Exception) -> None:
        """Say so if an error is about one mode, and the others of its transaction can go on."""
        cause = classify(error)
        if cause is Cause.NOT_STORABLE:
            raise _OneMode(ModeNotStorable(mode), mode) from error
        if cause is Cause.LOCK_TIMEOUT and self.dialect.locks_rows:
            raise _OneMode(ModeBusy(mode), mode) from error

    def _remember(self, outcomes: Mapping[str, Outcome]) -> None:
        """Note where the counters are after a commit."""
        for mode, outcome in outcomes.items():
            left = self._left.get(mode)
            if isinstance(outcome, CounterUpdate):
                if outcome.database_next_id == 0:
                    continue
                alone = left is None or left.next_id == outcome.database_next_id
                self._left[mode] = _Left(outcome.counter, outcome.next_id, alone)
            elif left is not None:
                del self._left[mode]

    def _pause(self, attempt: int, cause: Cause, deadline: float, error: Exception) -> None:
        """Wait before another try, or give up when the deadline would pass."""
        lost = cause is Cause.CONNECTION
        longest = _BACKOFF_CONNECTION if lost else _BACKOFF_CONFLICT
        # A connection that was lost while nobody used it is no sign of trouble: no wait at first.
        step = 0 if lost and attempt == 0 else _BACKOFF_START * 2 ** min(attempt, 20)
        wait = random.uniform(0, min(longest, step))
        if self._clock() + wait >= deadline:
            raise self._unavailable(error) from error
        self._on_retry(cause)
        log.debug(
            "transaction tried again in %.3f s after %s: %s",
            wait,
            cause,
            explain(error),
        )
        self._sleep(wait)

    def _unavailable(self, error: Exception) -> DatabaseUnavailable:
        if isinstance(error, DatabaseUnavailable):
            return error
        if classify(error) is Cause.NO_TABLE:
            return DatabaseUnavailable(f"{explain(error)}; {SYNC}", tables=True)
        return DatabaseUnavailable(explain(error))

    def _room(self, totals: Mapping[str, int], high_water_marks: Mapping[str, int]) -> int:
        """How many counters may still be made; counted only when a mode may be new.

        Outside the transaction, since there the count would lock every row of InnoDB's: two
        processes can pass the bound by a few.
        """
        # A floor of 1 is nobody's: no ID was handed out.
        if all(high_water_marks.get(mode, 1) > 1 for mode in totals):
            return 0
        with db_session:
            (counters,) = self.database.select(self._count, {}, {})
        return self.max_modes - int(counters)

    def _advance_all(
        self,
        totals: Mapping[str, int],
        high_water_marks: Mapping[str, int],
        repair: bool,
        room: int,
        replayed: Mapping[str, int] | None = None,
    ) -> dict[str, Outcome]:
        together = self._advance_together(totals, high_water_marks)
        if together is not None:
            return together
        outcomes: dict[str, Outcome] = {}
        # In one order everywhere, so that two processes do not wait for each other in a circle.
        for mode in sorted(totals):
            try:
                least = 1 if replayed is None else replayed.get(mode, 1)
                outcome, created = self._advance_one(
                    mode, totals[mode], high_water_marks, least, repair=repair, room=room
                )
            except Exception as error:
                self._raise_for_mode(mode, error)
                raise
            outcomes[mode] = outcome
            room -= created
        return outcomes

    def _advance_recorded(
        self,
        totals: Mapping[str, int],
        high_water_marks: Mapping[str, int],
        repair: bool,
        room: int,
        records: Sequence[AllocationRecord],
        known: Mapping[tuple[str, str], Record] | None,
    ) -> dict[str, Outcome]:
        """The same with records.

        :param known: their rows; None when nobody has looked.
        """
        by_mode: dict[str, list[AllocationRecord]] = {}
        for record in records:
            if record.mode in totals:
                by_mode.setdefault(record.mode, []).append(record)
        before: dict[tuple[str, str], AllocationRecord] = {}
        plans = {mode: Plan(listed, known or {}, before) for mode, listed in by_mode.items()}
        counts = dict(totals)
        replayed: dict[str, int] = {}
        for mode, plan in plans.items():
            counts[mode] -= plan.unused
            if plan.floor > 1:
                replayed[mode] = plan.floor
                # Read, and compared with that.
                self._left.pop(mode, None)
            elif counts[mode] == 0 and totals[mode] > 0:
                # All are refused: that makes no counter.
                del counts[mode]
        moved = self._advance_all(counts, high_water_marks, repair, room, replayed)
        outcomes: dict[str, Outcome] = dict(moved)
        rows: list[tuple[AllocationRecord, int]] = []
        for mode, plan in plans.items():
            # A counter that was not asked has no next ID.
            outcome = moved.get(mode, CounterUpdate(mode, 1, 0, 0))
            if not isinstance(outcome, CounterUpdate):
                if known is None and any(record.key is not None for record in by_mode[mode]):
                    raise _LookFirst
                continue
            # Behind the requests without records.
            new, ranges = plan.place(outcome.next_id - plan.taken)
            rows += new
            outcome.records = tuple(ranges)
            outcomes[mode] = outcome
        self.journal.confirm(record for plan in plans.values() for record in plan.found)
        try:
            self.journal.insert(rows)
        except Exception as error:
            keyed = [record.mode for record, _first in rows if record.key is not None]
            if classify(error) is Cause.LOCK_TIMEOUT and self.dialect.locks_rows and keyed:
                # A key that is in flight elsewhere, with another mode.
                raise _OneMode(ModeBusy(keyed[0]), keyed[0]) from error
            raise
        return outcomes

    def prune(self) -> int:
        """Delete some of the records whose time is over; how many.

        :raises DatabaseUnavailable: when the database does not answer.
        """
        try:
            self.need_journal()
        except JournalMissing:
            return 0
        return int(self._once(lambda: self.journal.prune(now())))

    def _advance_one(
        self,
        mode: str,
        count: int,
        high_water_marks: Mapping[str, int],
        least: int,
        *,
        repair: bool,
        room: int,
    ) -> tuple[Outcome, bool]:
        """Move one counter on; what became of it, and whether it was made.

        :param least: the lowest ID that the mode's replays leave.
        """
        execute = self.database.execute
        advanced = self._advance_unread(mode, count, high_water_marks)
        if advanced is not None:
            return advanced, False
        row = execute(self._select, {}, {"mode": mode}).fetchone()
        if row is None:
            if room <= 0 and max(high_water_marks.get(mode, 1), least) == 1:
                return TooManyModes(mode, self.max_modes), False
            # Made first, so that its own row says which high-water marks are those of this counter
            # under other names: it may have been lost.
            execute(f"SAVEPOINT {_NEW_COUNTER}", {}, {})
            execute(self._insert, {}, {"mode": mode, "next_id": 1})
        counter, found = row or (mode, 1)
        names = self._equal_modes.marks(counter, high_water_marks)
        first = max(found, least, *(high_water_marks.get(name, 1) for name in names))
        regressed = found < first and first > 1
        next_id = first + count
        refusal: UniqueIDError | None = None
        if regressed and not repair:
            refusal = CounterRegressed(names[0], found, first)
        elif next_id > MAX_ID + 1:
            refusal = CounterExhausted(mode, count, MAX_ID + 1 - first)
        if refusal is not None:
            if row is None:
                execute(f"ROLLBACK TO SAVEPOINT {_NEW_COUNTER}", {}, {})
            return refusal, False
        if next_id != found:
            values = {"mode": counter, "next_id": next_id, "found": found}
            if execute(self._update, {}, values).rowcount != 1:
                raise LostUpdate
        return CounterUpdate(names[0], first, count, found, regressed), row is None

    def _advance_unread(
        self, mode: str, count: int, high_water_marks: Mapping[str, int]
    ) -> CounterUpdate | None:
        """Move a counter on from where this store left it, which spares reading it.

        Nothing is written, and the answer is None, unless the counter is exactly there. While
        somebody else moves it as well, it is not tried.
        """
        left = self._expected(mode, count, high_water_marks)
        if left is None:
            return None
        values = {"mode": mode, "next_id": left.next_id + count, "found": left.next_id}
        if self.database.execute(self._update, {}, values).rowcount != 1:
            return None
        return CounterUpdate(left.counter, left.next_id, count, left.next_id)

    def _expected(self, mode: str, count: int, high_water_marks: Mapping[str, int]) -> _Left | None:
        """Where a counter is likely to be; None when it had better be read."""
        left = self._left.get(mode)
        if left is None or not left.alone or count == 0:
            return None
        floor = max(high_water_marks.get(left.counter, 1), high_water_marks.get(mode, 1))
        return left if floor <= left.next_id <= MAX_ID + 1 - count else None

    def _advance_together(
        self, totals: Mapping[str, int], high_water_marks: Mapping[str, int]
    ) -> dict[str, Outcome] | None:
        """Move several counters on in one statement, if each is where this store left it.

        :returns: None when one of them had better be read; nothing is written then.
        :raises LostUpdate: when one was elsewhere; all are read in the next try.
        """
        if len(totals) < 2:
            return None
        expected = {}
        for mode, count in totals.items():
            left = self._expected(mode, count, high_water_marks)
            if left is None:
                return None
            expected[mode] = left
        modes = sorted(expected)
        mark = self._mark
        counts = [totals[mode] for mode in modes]
        values = modes * 2
        added = str(counts[0])
        if len(set(counts)) > 1:
            added = self._case.format(
                counts=" ".join(f"WHEN {mark} THEN {number}" for number in counts)
            )
            values = modes * 3
        sql = self._update_all.format(
            added=added,
            modes=", ".join([mark] * len(modes)),
            found=", ".join([f"({mark}, {expected[mode].next_id})" for mode in modes]),
        )
        for mode in expected:
            # Until this transaction is done: whatever happens to it, the next one reads.
            del self._left[mode]
        # Not by Pony's execute(), which would keep each of these texts for ever.
        cursor = self.database.get_connection().cursor()
        self.database.provider.execute(cursor, sql, tuple(values))
        if cursor.rowcount != len(expected):
            raise LostUpdate
        self._left |= expected
        return {
            mode: CounterUpdate(left.counter, left.next_id, totals[mode], left.next_id)
            for mode, left in expected.items()
        }
