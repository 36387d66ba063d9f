"""The counters' rows: what happens to them inside a transaction.

Every UPDATE of a counter is guarded by the value that was read under its lock, or that this process
committed last, and its row count is checked. So a lost lock, or another writer, never makes two
ranges overlap.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pony.orm import db_session

from uniqueid.database.dialects.base import Dialect
from uniqueid.database.dialects.provider import SINGLE_STATEMENT
from uniqueid.database.engine import Engine
from uniqueid.database.equal_modes import EqualModes
from uniqueid.database.errors import Cause, LostUpdate, classify
from uniqueid.errors import (
    MAX_ID,
    CounterExhausted,
    CounterRegressed,
    ModeBusy,
    ModeNotStorable,
    TooManyModes,
    UniqueIDError,
)
from uniqueid.model import CounterUpdate

Outcome = CounterUpdate | UniqueIDError
"""The result for one mode: advanced, or refused alone while the others are advanced."""


class ModeRefused(Exception):
    """The transaction is rolled back, and is to be run again without this mode."""

    def __init__(self, mode: str, reason: UniqueIDError) -> None:
        self.mode = mode
        self.reason = reason


@dataclass(slots=True)
class CachedPosition:
    """The next ID of a counter after this process' last commit."""

    counter: str
    next_id: int
    exclusive: bool
    """Whether no other process advanced it between the last two commits."""


class _Statements(NamedTuple):
    select: str
    update: str
    update_many: str
    """Filled in for each set of modes."""
    increment_by_mode: str
    select_count: str
    select_all: str


def _statements(dialect: Dialect) -> _Statements:
    table, mode, next_id = map(dialect.quote, ("uniqueindex", "id", "index"))
    value = dialect.placeholder
    return _Statements(
        f"SELECT {mode}, {next_id} FROM {table} WHERE {mode} = $mode{dialect.row_lock}",
        f"UPDATE {table} SET {next_id} = {value} WHERE {mode} = {value} AND {next_id} = {value}",
        # The keys alone as well, so that no database reads any other row.
        f"UPDATE {table} SET {next_id} = {next_id} + {{increment}} WHERE {mode} IN ({{modes}})"
        f" AND ({mode}, {next_id}) IN ({dialect.row_values}{{expected}})",
        f"CASE {mode} {{cases}} END",
        f"SELECT COUNT(*) FROM {table}",
        f"SELECT {mode}, {next_id} FROM {table} ORDER BY {mode}",
    )


class Counters:
    """The counters of one database, and the cached positions of those that this process advances.

    One thread at a time uses it.

    :param max_modes: how many counters requests may create.
    """

    def __init__(self, engine: Engine, max_modes: int) -> None:
        self._engine = engine
        self._max_modes = max_modes
        self._statements = _statements(engine.dialect)
        self._equal_modes = EqualModes(engine)
        self._positions: dict[str, CachedPosition] = {}

    # -- in sessions of their own -----------------------------------------------------------------

    def select_all(self) -> dict[str, int]:
        """Each mode and its next ID."""
        with db_session:
            # Not execute(), which takes SQLite's lock for writing.
            return dict(self._engine.database.select(self._statements.select_all, {}, {}))

    def find(self, names: Collection[str]) -> dict[str, int]:
        """The next IDs of counters by name, as the database compares names."""
        return self._equal_modes.find(names)

    def room(self, totals: Mapping[str, int], high_water_marks: Mapping[str, int]) -> int:
        """How many counters may still be created; counted only when a mode may be new.

        Outside the transaction, since there the count would lock every row of InnoDB's: two
        processes can exceed the bound by a few.
        """
        # With a high-water mark of 1, no ID was allocated.
        if all(high_water_marks.get(mode, 1) > 1 for mode in totals):
            return 0
        with db_session:
            (counters,) = self._engine.database.select(self._statements.select_count, {}, {})
        return self._max_modes - int(counters)

    # -- cached positions -------------------------------------------------------------------------

    def remember(self, outcomes: Mapping[str, Outcome]) -> None:
        """Cache the positions of the counters after a commit."""
        for mode, outcome in outcomes.items():
            if not isinstance(outcome, CounterUpdate):
                self.forget(mode)
            elif outcome.database_next_id:
                position = self._positions.get(mode)
                if position is None:
                    self._positions[mode] = CachedPosition(outcome.counter, outcome.next_id, True)
                    continue
                position.exclusive = position.next_id == outcome.database_next_id
                position.counter, position.next_id = outcome.counter, outcome.next_id

    def forget(self, mode: str) -> None:
        """Read a counter in the next transaction."""
        self._positions.pop(mode, None)

    def position(
        self, mode: str, count: int, high_water_marks: Mapping[str, int]
    ) -> CachedPosition | None:
        """Where a counter is likely to be; None when it has to be read."""
        position = self._positions.get(mode)
        if position is None or not position.exclusive or count == 0:
            return None
        next_id = position.next_id
        # The counter may be spelled in another way.
        for name in {mode, position.counter}:
            if next_id < high_water_marks.get(name, 1):
                return None
        return position if next_id <= MAX_ID + 1 - count else None

    def advance_single(
        self, mode: str, count: int, high_water_marks: Mapping[str, int]
    ) -> CounterUpdate | None:
        """Advance a counter in a session of a single statement; None when it has to be read.

        :raises ModeRefused: when the mode cannot be advanced.
        """
        position = self.position(mode, count, high_water_marks)
        if position is None:
            return None
        try:
            with SINGLE_STATEMENT:
                return self._advance_cached(mode, count, position)
        except Exception as error:
            # Wherever the counter is now.
            self.forget(mode)
            self.refuse(mode, error)
            raise

    # -- in a serializable session ----------------------------------------------------------------

    def advance(
        self,
        totals: Mapping[str, int],
        high_water_marks: Mapping[str, int],
        *,
        repair: bool,
        room: int,
        replayed: Mapping[str, int] | None = None,
    ) -> dict[str, Outcome]:
        """Advance counters.

        :param totals: mode to the number of IDs.
        :param repair: raise a counter that is below its high-water mark; False refuses its mode.
        :param room: how many may be created.
        :param replayed: mode to the lowest ID that its replays leave.
        :raises ModeRefused: when the transaction cannot be committed with one of the modes.
        """
        together = self._advance_together(totals, high_water_marks)
        if together is not None:
            return together
        outcomes: dict[str, Outcome] = {}
        # In one order everywhere, so that two processes do not wait for each other in a circle.
        for mode in sorted(totals):
            lowest = 1 if replayed is None else replayed.get(mode, 1)
            try:
                outcome, created = self._advance_one(
                    mode, totals[mode], high_water_marks, lowest, repair=repair, room=room
                )
            except Exception as error:
                self.refuse(mode, error)
                raise
            outcomes[mode] = outcome
            room -= created
        return outcomes

    def refuse(self, mode: str, error: Exception) -> None:
        """Refuse a mode alone if an error concerns it and none of the others.

        :raises ModeRefused: if so.
        """
        cause = classify(error)
        if cause is Cause.NOT_STORABLE:
            raise ModeRefused(mode, ModeNotStorable(mode)) from error
        if cause is Cause.LOCK_TIMEOUT and self._engine.dialect.locks_rows:
            raise ModeRefused(mode, ModeBusy(mode)) from error

    def _advance_cached(
        self, mode: str, count: int, position: CachedPosition
    ) -> CounterUpdate | None:
        """Advance a counter from its cached position, without reading it.

        Nothing is written, and the answer is None, unless the counter is exactly there. It is not
        tried again while another process advances the counter as well.
        """
        if not self._update(mode, position.next_id, position.next_id + count):
            position.exclusive = False
            return None
        return CounterUpdate(position.counter, position.next_id, count, position.next_id)

    def _advance_one(
        self,
        mode: str,
        count: int,
        high_water_marks: Mapping[str, int],
        lowest: int,
        *,
        repair: bool,
        room: int,
    ) -> tuple[Outcome, bool]:
        """Advance one counter; the outcome, and whether it was created.

        :param lowest: the lowest ID that the mode's replays leave.
        """
        position = self.position(mode, count, high_water_marks)
        if position is not None and (update := self._advance_cached(mode, count, position)):
            return update, False
        # Not get_for_update(): by the collation of the column the row may spell the mode in
        # another way, and Pony would take the value that it read under that spelling before.
        row = self._engine.Counter.get_by_sql(self._statements.select, {}, {"mode": mode})
        created = row is None
        if created:
            if room <= 0 and max(high_water_marks.get(mode, 1), lowest) == 1:
                return TooManyModes(mode, self._max_modes), False
            # Before it is compared, so that its own row shows which high-water marks are those of
            # this counter under other names: it may have been lost.
            self._engine.Counter(mode=mode, next_id=1)
            self._engine.database.flush()
        counter, found = (mode, 1) if created else (row.mode, row.next_id)
        names = self._equal_modes.marks(counter, high_water_marks)
        first = max(found, lowest, *(high_water_marks.get(name, 1) for name in names))
        regressed = found < first and first > 1
        refusal: UniqueIDError | None = None
        if regressed and not repair:
            refusal = CounterRegressed(names[0], found, first)
        elif first + count > MAX_ID + 1:
            refusal = CounterExhausted(mode, count, MAX_ID + 1 - first)
        if refusal is not None:
            if created:
                raise ModeRefused(mode, refusal)
            return refusal, False
        if first + count != found and not self._update(counter, found, first + count):
            raise LostUpdate
        return CounterUpdate(names[0], first, count, found, regressed), created

    def _update(self, mode: str, expected: int, next_id: int) -> bool:
        """Write a counter if it is what is expected; whether it was."""
        cursor = self._engine.execute(self._statements.update, (next_id, mode, expected))
        return bool(cursor.rowcount == 1)

    def _advance_together(
        self, totals: Mapping[str, int], high_water_marks: Mapping[str, int]
    ) -> dict[str, Outcome] | None:
        """Advance several counters in one statement, each from its cached position.

        :returns: None when one of them has to be read; nothing is written then.
        :raises LostUpdate: when one was elsewhere; all are read in the next attempt.
        """
        if len(totals) < 2:
            return None
        expected = {}
        for mode, count in totals.items():
            position = self.position(mode, count, high_water_marks)
            if position is None:
                return None
            expected[mode] = position
        modes = sorted(expected)
        placeholder = self._engine.dialect.placeholder
        counts = [totals[mode] for mode in modes]
        values = modes * 2
        increment = str(counts[0])
        if len(set(counts)) > 1:
            cases = " ".join(f"WHEN {placeholder} THEN {count}" for count in counts)
            increment = self._statements.increment_by_mode.format(cases=cases)
            values = modes * 3
        sql = self._statements.update_many.format(
            increment=increment,
            modes=", ".join([placeholder] * len(modes)),
            expected=", ".join(f"({placeholder}, {expected[mode].next_id})" for mode in modes),
        )
        for mode in expected:
            # Until this transaction is committed: whatever happens to it, the next one reads.
            del self._positions[mode]
        if self._engine.execute(sql, tuple(values)).rowcount != len(expected):
            raise LostUpdate
        self._positions |= expected
        return {
            mode: CounterUpdate(position.counter, position.next_id, totals[mode], position.next_id)
            for mode, position in expected.items()
        }
