"""The counters in a database: one call of `advance` is one serializable transaction.

Every allocation is a `db_session` of Pony's. One that advances a single counter from its cached
position is a session of a single statement, in one round trip (`dialects.provider`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from pony.orm import Database

from uniqueid.database.counters import Counters, ModeRefused, Outcome
from uniqueid.database.dialects.base import Dialect
from uniqueid.database.dialects.provider import SERIALIZABLE
from uniqueid.database.durability import DurabilityMonitor
from uniqueid.database.engine import Answer, Engine
from uniqueid.database.errors import TRANSIENT, Cause, classify, unavailable
from uniqueid.database.journal import Journal, Plans
from uniqueid.database.retry import Retry
from uniqueid.database_url import DatabaseURL
from uniqueid.errors import (
    CounterExhausted,
    CounterRegressed,
    DatabaseUnavailable,
    JournalMissing,
    ModeBusy,
    TooManyModes,
)
from uniqueid.model import AllocationRecord, now

_OF_ITS_VALUE = CounterRegressed, CounterExhausted, TooManyModes
"""Refusals that do not concern a replay, which takes no IDs."""


class KeysNotRead(Exception):
    """A mode would be refused whose keys may have been used before: they are read first."""


class Store:
    """The counters and the journal of one database.

    One thread at a time uses it, apart from `open`.

    :param url: of the database.
    :param max_modes: how many counters requests may create.
    :param create: whether SQLite may create its file.
    :param timeout: seconds for a connection to be made and for an answer to a statement.
    :param on_retry: called with the cause of each transaction that is retried.
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
        self._engine = Engine(url, create=create, timeout=timeout, durability=durability)
        self._counters = Counters(self._engine, max_modes)
        self._retry = Retry(on_retry, clock, sleep)
        self.journal = Journal(self._engine.database, self._engine.dialect)
        self._journal_found = False

    @property
    def url(self) -> DatabaseURL:
        return self._engine.url

    @property
    def dialect(self) -> Dialect:
        return self._engine.dialect

    @property
    def database(self) -> Database:
        """Pony's."""
        return self._engine.database

    @property
    def connections(self) -> int:
        """How many connections were made so far: a new one may lead to another server."""
        return self._engine.connections

    @property
    def connected(self) -> bool:
        """Whether there is a connection; any thread may ask."""
        return self._engine.connected

    def open(self) -> None:
        """Make a first connection; once is enough.

        :raises DatabaseUnavailable: when the database cannot be reached or refuses.
        """
        self._engine.open()

    def connect(self, attempts: int, wait: float) -> None:
        """Open the database, and wait for one that is still starting.

        :param attempts: how often to try; `wait` seconds lie between two.
        :raises DatabaseUnavailable: after the last attempt, and at once where waiting is of no use.
        :raises SchemaError: when there is no SQLite file.
        """
        self._engine.connect(attempts, wait, self._retry.sleep)

    def disconnect(self) -> None:
        """Close the connection; the next call makes a new one."""
        self._engine.disconnect()

    def read(self, question: Callable[[], Answer]) -> Answer:
        """Ask, and once more if the connection turns out to have been lost since its last use.

        :param question: makes its own session, and can be repeated.
        :raises DatabaseUnavailable: when the database does not answer.
        """
        return self._engine.read(question)

    # -- reading ----------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """Each mode and its next ID.

        :raises DatabaseUnavailable: when the database does not answer.
        """
        return self._engine.read(self._counters.select_all)

    def find(self, names: Collection[str]) -> dict[str, int]:
        """The next ID of each of the counters with these names, as the database compares names.

        :returns: by the name that was asked for, without those that have no counter.
        :raises DatabaseUnavailable: when the database does not answer.
        """
        return self._engine.read(lambda: self._counters.find(names))

    def ping(self) -> None:
        """See that the database would execute a transaction, without allocating.

        :raises DatabaseUnavailable: when it does not answer, or refuses every UPDATE.
        """
        self._engine.read(self._engine.ping)

    def check_session(self) -> None:
        """Check the settings of the session, and its server's, again.

        :raises DatabaseUnavailable: when they may not be used, or the database does not answer.
        """
        self._engine.read(self._engine.check_session)

    def need_journal(self) -> None:
        """See that there is a table for records.

        :raises JournalMissing: when there is none.
        :raises DatabaseUnavailable: when the database does not answer.
        """
        if not self._journal_found:
            self._journal_found = self._engine.read(self.journal.exists)
        if not self._journal_found:
            raise JournalMissing

    def prune(self) -> int:
        """Delete some of the expired records; how many.

        :raises DatabaseUnavailable: when the database does not answer.
        """
        try:
            self.need_journal()
        except JournalMissing:
            return 0
        return self._engine.read(lambda: self.journal.prune(now()))

    # -- advancing --------------------------------------------------------------------------------

    def advance(
        self,
        totals: Mapping[str, int],
        high_water_marks: Mapping[str, int],
        *,
        repair: bool = True,
        deadline: float,
        records: Sequence[AllocationRecord] = (),
    ) -> dict[str, Outcome]:
        """Advance counters in one serializable transaction, all of them or none.

        When this returns, its result has been committed; no other call, in this process or another,
        gets any of the same IDs. After an exception it is unknown whether the database committed,
        and the IDs have to be regarded as lost.

        :param totals: mode to the number of IDs, those of records included; 0 writes only where
            `high_water_marks` asks for it.
        :param high_water_marks: counter to the lowest ID that may still be allocated. Where the
            database has less, its counter has regressed.
        :param repair: raise a counter that has regressed; False refuses its mode.
        :param deadline: on the store's clock. No further attempt is made after it: with one that
            has passed there is one attempt, and no waiting.
        :param records: requests to be recorded in the same transaction (`database.journal`).
        :returns: the outcome of each mode. A refused mode changes nothing.
        :raises DatabaseUnavailable: when it could not be done before the deadline.
        :raises JournalMissing: when there are records and no table for them.
        """
        refused: dict[str, Outcome] = {}
        attempt = 0
        read_keys = False
        wanted = totals
        while True:
            try:
                self._engine.open()
                outcomes = self._attempt(wanted, high_water_marks, repair, records, read_keys)
                self._counters.remember(outcomes)
                return outcomes | refused if refused else outcomes
            except ModeRefused as refusal:
                if isinstance(refusal.reason, ModeBusy):
                    self._retry.on_retry(Cause.LOCK_TIMEOUT)
                refused[refusal.mode] = refusal.reason
                wanted = {mode: count for mode, count in totals.items() if mode not in refused}
            except KeysNotRead:
                read_keys = True
            except Exception as error:
                cause = self._transient(error)
                if records and not read_keys:
                    read_keys = True
                    if cause is Cause.DUPLICATE_KEY:
                        # A key that was used before, most likely: no conflict.
                        continue
                self._retry.wait(attempt, cause, deadline, error)
                attempt += 1
            except BaseException:
                # The response that this thread did not read must not be taken for the next one.
                self.disconnect()
                raise

    def _transient(self, error: Exception) -> Cause:
        """Why a transaction failed that is worth another attempt.

        :raises Exception: the error, when it is a mistake of this program's own.
        :raises DatabaseUnavailable: when another attempt would fail as well.
        """
        if isinstance(error, DatabaseUnavailable):
            return Cause.CONNECTION
        cause = classify(error)
        if cause is Cause.CONNECTION or cause not in TRANSIENT:
            self.disconnect()
        if cause is None:
            raise error
        if cause not in TRANSIENT:
            # Whatever it was, the table is looked for again.
            self._journal_found = False
            raise unavailable(error) from error
        return cause

    def _attempt(
        self,
        totals: Mapping[str, int],
        high_water_marks: Mapping[str, int],
        repair: bool,
        records: Sequence[AllocationRecord],
        read_keys: bool,
    ) -> dict[str, Outcome]:
        """Run the transaction once."""
        if records:
            self.need_journal()
            known = self.journal.find(records) if read_keys else None
            plans = Plans(records, totals, known)
        elif len(totals) == 1:
            ((mode, count),) = totals.items()
            update = self._counters.advance_single(mode, count, high_water_marks)
            if update is not None:
                return {mode: update}
        room = self._counters.room(totals, high_water_marks)
        with SERIALIZABLE:
            if records:
                return self._advance_recorded(plans, high_water_marks, repair, room)
            return self._counters.advance(totals, high_water_marks, repair=repair, room=room)

    def _advance_recorded(
        self,
        plans: Plans,
        high_water_marks: Mapping[str, int],
        repair: bool,
        room: int,
    ) -> dict[str, Outcome]:
        """Advance counters and write records, inside a transaction."""
        for mode in plans.replayed:
            # Its row is read, and compared.
            self._counters.forget(mode)
        try:
            outcomes = self._counters.advance(
                plans.counts, high_water_marks, repair=repair, room=room, replayed=plans.replayed
            )
        except ModeRefused as refusal:
            if refusal.mode in plans.unread and isinstance(refusal.reason, _OF_ITS_VALUE):
                raise KeysNotRead from None
            raise
        if any(isinstance(outcomes.get(mode), _OF_ITS_VALUE) for mode in plans.unread):
            raise KeysNotRead
        rows = plans.place(outcomes)
        self.journal.confirm(plans.found)
        try:
            self.journal.insert(rows)
        except Exception as error:
            keyed = [record.mode for record, _first in rows if record.key is not None]
            if keyed and classify(error) is Cause.LOCK_TIMEOUT:
                # A key that is in flight elsewhere, with another mode.
                self._counters.refuse(keyed[0], error)
            raise
        return outcomes
