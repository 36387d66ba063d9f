"""The journal: which request got which range. One table serves exactly-once and provenance.

A request that carries an idempotency key is recorded under (key, caller) in the very transaction
that moves its counter on; so is every request where ``journal = on``. The record and the range
are there together or not at all, and the rest follows:

1. *The table decides.* (key, caller) is unique, by the database's own index, between threads,
   processes and machines. A range is allocated for a key only by the transaction that inserted
   its row, so a key has one range at most.
2. *First optimistically.* The first try of a transaction takes every key for new and inserts; that
   costs a batch one statement. When a row is there already, nothing of that try is committed.
3. *Then by the book.* Every further try, for whatever reason, reads the rows of its keys first,
   in a session of its own kind that takes no locks: before the transaction, since InnoDB's locks
   on rows which are not there would make replicas with different keys wait for each other in
   circles. What was found is answered again (a replay); the rest is inserted. A row that another
   process inserts in between fails the insertion, and the next try finds it. This is also how an
   ambiguous COMMIT is cleared up: what it did is found, and answered, and leaves no gap.
4. *A replay is confirmed where it counts*: in the transaction the row's `replays` is counted up.
   If the row has gone since it was read (a failover), nothing is committed and the next try
   allocates again. And since that is a write, COMMIT answers only when it is on disk, and with it
   all that was before in the log: the row as well.
5. *A replay is a floor.* The counter of a range that is answered again is never left below its
   end: should the two have been restored apart, the counter is raised, as by the guard.

The order of locks is one everywhere: counters by mode, then rows to confirm, then rows to insert
by key. A request with the same key and other parameters is refused, and takes nothing. Refused
requests (exhausted, too many modes, regressed) are not recorded: the key is free again.

A range can be answered twice only to one key; and a key can get two ranges only when the database
forgot the first: rows older than their time to live, or lost with a failover or a restore. Then the
second range is above the first, by the guard, and no ID has come twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pony.orm import Database, db_session

from uniqueid.database.dialects.base import Dialect
from uniqueid.database.errors import LostUpdate
from uniqueid.errors import KeyReused, UniqueIDError
from uniqueid.model import (
    MAX_CALLER_LENGTH,
    MAX_CLIENT_LENGTH,
    MAX_KEY_LENGTH,
    AllocationRecord,
    CounterUpdate,
    RecordedRange,
)

TABLE = "uniqueidjournal"

PRUNE_STEP = 1000
"""Rows that are deleted in one short transaction at most."""
_INSERT_STEP = 100
"""Rows of one INSERT; SQLite before 3.32 takes 999 parameters."""
_PAGE = 1000
"""Rows that are read at once."""

COLUMNS = (
    "idempotency_key",
    "caller",
    "mode",
    "first",
    "last",
    "time",
    "expires",
    "client",
    "request_id",
)
"""All that are written; `id` numbers itself, and `replays` starts at 0."""


Rows = list[tuple[AllocationRecord, int]]
"""Records and the first of their IDs."""


@dataclass(frozen=True, slots=True)
class Record:
    """A row."""

    id: int
    key: str | None
    caller: str
    mode: str
    first: int
    last: int
    time: int
    expires: int
    client: str
    request_id: str
    replays: int

    def is_of(self, entry: AllocationRecord) -> bool:
        """Whether it was written for this very request, and not for one before with its key."""
        return (self.time, self.request_id) == (entry.time, entry.request_id)


class Plan:
    """What one transaction does with the entries of one mode.

    :param known: rows that were found.
    :param before: the entries with a key in the same transaction so far; new ones are added.
    """

    def __init__(
        self,
        entries: Sequence[AllocationRecord],
        known: Mapping[tuple[str, str], Record],
        before: dict[tuple[str, str], AllocationRecord],
    ) -> None:
        self.fresh: list[AllocationRecord] = []
        self.found: list[Record] = []
        self.floor = 1
        """The counter must not be below this."""
        self._entries = entries
        self._fates = [self._fate(entry, known, before) for entry in entries]
        asked = sum(entry.count for entry in entries)
        self.taken = sum(entry.count for entry in self.fresh)
        """IDs for the new ones."""
        self.unused = asked - self.taken
        """IDs that are not taken, since their requests are replays or refused."""

    def _fate(
        self,
        entry: AllocationRecord,
        known: Mapping[tuple[str, str], Record],
        before: dict[tuple[str, str], AllocationRecord],
    ) -> AllocationRecord | Record | KeyReused:
        """Whose range an entry gets: its own, another's in this transaction, a row's; or none."""
        identity = entry.identity
        if identity is None:
            self.fresh.append(entry)
            return entry
        record = known.get(identity)
        if record is not None:
            count = record.last - record.first + 1
            if (record.mode, count) != (entry.mode, entry.count):
                return KeyReused(identity[0], record.mode, count)
            self.found.append(record)
            self.floor = max(self.floor, record.last + 1)
            return record
        other = before.setdefault(identity, entry)
        if other is entry:
            self.fresh.append(entry)
        elif (other.mode, other.count) != (entry.mode, entry.count):
            return KeyReused(identity[0], other.mode, other.count)
        return other

    def place(
        self, first: int
    ) -> tuple[list[tuple[AllocationRecord, int]], list[RecordedRange | KeyReused]]:
        """Give each new entry its range, one after the other from `first` on.

        :returns: the rows to insert, and for each entry, in the order given, what became of it.
        """
        firsts: dict[int, int] = {}
        rows = []
        for entry in self.fresh:
            firsts[id(entry)] = first
            rows.append((entry, first))
            first += entry.count
        placed: list[RecordedRange | KeyReused] = []
        for entry, fate in zip(self._entries, self._fates, strict=True):
            if isinstance(fate, Record):
                placed.append(RecordedRange(fate.first, not fate.is_of(entry)))
            elif isinstance(fate, AllocationRecord):
                placed.append(RecordedRange(firsts[id(fate)], fate is not entry))
            else:
                placed.append(fate)
        return rows, placed


class Plans:
    """What one transaction does with all of its records.

    :param totals: mode to the number of IDs, those of its records included. Records of other modes
        are left out.
    :param known: rows that were found; None when the keys were not read.
    """

    def __init__(
        self,
        records: Sequence[AllocationRecord],
        totals: Mapping[str, int],
        known: Mapping[tuple[str, str], Record] | None,
    ) -> None:
        by_mode: dict[str, list[AllocationRecord]] = {}
        for record in records:
            if record.mode in totals:
                by_mode.setdefault(record.mode, []).append(record)
        before: dict[tuple[str, str], AllocationRecord] = {}
        self.unread = frozenset(
            record.mode for record in records if record.key is not None and known is None
        )
        """The modes of keys that were not read."""
        self._by_mode = {mode: Plan(rows, known or {}, before) for mode, rows in by_mode.items()}
        self.counts = dict(totals)
        """Mode to the number of IDs to allocate."""
        self.replayed: dict[str, int] = {}
        """Mode to the lowest ID that its replays leave."""
        for mode, plan in self._by_mode.items():
            self.counts[mode] -= plan.unused
            if plan.floor > 1:
                self.replayed[mode] = plan.floor
            elif self.counts[mode] == 0 and totals[mode] > 0:
                # All are refused: that creates no counter.
                del self.counts[mode]

    @property
    def found(self) -> Iterator[Record]:
        """The rows of the replays."""
        return (record for plan in self._by_mode.values() for record in plan.found)

    def place(self, outcomes: dict[str, CounterUpdate | UniqueIDError]) -> Rows:
        """Complete the outcomes of the modes with those of their records; the rows to insert."""
        rows: Rows = []
        for mode, plan in self._by_mode.items():
            # A counter that was not used has no next ID.
            outcome = outcomes.setdefault(mode, CounterUpdate(mode, 1, 0, 0))
            if isinstance(outcome, CounterUpdate):
                # Behind the requests without records.
                new, ranges = plan.place(outcome.next_id - plan.taken)
                rows += new
                outcome.records = tuple(ranges)
        return rows


class Journal:
    """The table of one database."""

    def __init__(self, database: Database, dialect: Dialect) -> None:
        self._database = database
        self._dialect = dialect
        quote = dialect.quote
        self._table = quote(TABLE)
        self._names = {name: quote(name) for name in ("id", "replays", *COLUMNS)}
        named = ", ".join(self._names[name] for name in COLUMNS)
        self._insert_sql = f"INSERT INTO {self._table} ({named}) VALUES "
        self._row_sql = "(" + ", ".join([dialect.placeholder] * len(COLUMNS)) + ")"
        order = ("id", *COLUMNS, "replays")
        self._select_sql = (
            f"SELECT {', '.join(self._names[name] for name in order)} FROM {self._table} WHERE "
        )

    def exists(self) -> bool:
        """Whether there is a table: dbsync makes it with version 1.1 of the schema."""
        with db_session:
            return self._dialect.describe(self._select, TABLE) is not None

    def _select(self, sql: str, values: Mapping[str, object]) -> Sequence[tuple[Any, ...]]:
        return self._database.select(sql, {}, values)  # type: ignore[no-any-return]

    # -- for the committer ----------------------------------------------------------------------

    def find(self, entries: Iterable[AllocationRecord]) -> dict[tuple[str, str], Record]:
        """The rows of the entries' keys that are there now, by key and caller."""
        identities = {entry.identity for entry in entries if entry.identity is not None}
        keys = sorted({key for key, _caller in identities})
        found = {}
        with db_session:
            for start in range(0, len(keys), _INSERT_STEP):
                page = keys[start : start + _INSERT_STEP]
                # Of few lengths, since Pony remembers every statement that it has seen.
                page += page[-1:] * ((1 << (len(page) - 1).bit_length()) - len(page))
                marks = ", ".join(f"$k{number}" for number in range(len(page)))
                sql = f"{self._select_sql}{self._names['idempotency_key']} IN ({marks})"
                values = {f"k{number}": key for number, key in enumerate(page)}
                for record in self._records(sql, values):
                    identity = (str(record.key), record.caller)
                    if identity in identities:
                        found[identity] = record
        return found

    def confirm(self, records: Iterable[Record]) -> None:
        """Count the replays, inside a transaction.

        :raises LostUpdate: when a row is not there any more.
        """
        ids = sorted({record.id for record in records})
        replays, number = self._names["replays"], self._names["id"]
        for one in ids:
            sql = f"UPDATE {self._table} SET {replays} = {replays} + 1 WHERE {number} = $one"
            if self._database.execute(sql, {}, {"one": one}).rowcount != 1:
                raise LostUpdate

    def insert(self, rows: Iterable[tuple[AllocationRecord, int]]) -> None:
        """Write entries and the first of their IDs, inside a transaction."""
        # In one order everywhere, so that two processes do not wait for each other in a circle.
        ordered = sorted(rows, key=lambda row: row[0].identity or ("", ""))
        values = [
            (
                entry.key,
                entry.caller,
                entry.mode,
                first,
                first + entry.count - 1,
                entry.time,
                entry.expires,
                entry.client,
                entry.request_id,
            )
            for entry, first in ordered
        ]
        # By the driver's own means: the transaction is Pony's, which would compile each statement.
        cursor = self._database.get_connection().cursor()
        for start in range(0, len(values), _INSERT_STEP):
            page = values[start : start + _INSERT_STEP]
            sql = self._insert_sql + ", ".join([self._row_sql] * len(page))
            cursor.execute(sql, [value for row in page for value in row])

    def prune(self, before: int, step: int = PRUNE_STEP) -> int:
        """Delete rows that expired before a time, the oldest first; how many, `step` at most.

        They are found without locks and deleted by number, so that no transaction waits for others.
        """
        expires, number = self._names["expires"], self._names["id"]
        with db_session:
            ids = self._database.select(
                f"SELECT {number} FROM {self._table} WHERE {expires} < $before"
                f" ORDER BY {expires} LIMIT {int(step)}",
                {},
                {"before": before},
            )
        if not ids:
            return 0
        with db_session:
            cursor = self._database.get_connection().cursor()
            listed = ", ".join(str(int(one)) for one in ids)
            cursor.execute(f"DELETE FROM {self._table} WHERE {number} IN ({listed})")
            return int(cursor.rowcount)

    # -- for those who look ----------------------------------------------------------------------

    def who_has(self, mode: str, one: int) -> Record | None:
        """The row of the range that an ID of a mode is in."""
        first = self._names["first"]
        sql = (
            f"{self._select_sql}{self._names['mode']} = $mode AND {first} <= $one"
            f" ORDER BY {first} DESC LIMIT 1"
        )
        with db_session:
            for record in self._records(sql, {"mode": mode, "one": one}):
                if record.last >= one:
                    return record
        return None

    def count(self, **bounds: Any) -> int:
        """How many rows `rows` gives for the same bounds."""
        conditions, values = self._conditions(**bounds)
        sql = f"SELECT COUNT(*) FROM {self._table} WHERE {conditions}"
        with db_session:
            (counted,) = self._database.select(sql, {}, values)
        return int(counted)

    def rows(self, **bounds: Any) -> Iterator[Record]:
        """The rows of a mode in the order of their IDs; without one, of all in the order written.

        Read page by page, so that neither memory nor locks are held for long.

        :param mode: of this mode alone.
        :param since: not before this time, in microseconds since 1970.
        :param until: before this time.
        :param low: with IDs from this one on.
        :param high: with IDs up to this one.
        """
        conditions, values = self._conditions(**bounds)
        by = "first" if bounds.get("mode") is not None else "id"
        sql = (
            f"{self._select_sql}{conditions} AND {self._names[by]} > $after"
            f" ORDER BY {self._names[by]} LIMIT {_PAGE}"
        )
        after = 0
        while True:
            with db_session:
                page = list(self._records(sql, {**values, "after": after}))
            yield from page
            if len(page) < _PAGE:
                return
            after = getattr(page[-1], by)

    def _conditions(
        self,
        mode: str | None = None,
        since: int | None = None,
        until: int | None = None,
        low: int | None = None,
        high: int | None = None,
    ) -> tuple[str, dict[str, Any]]:
        given = {
            "mode": (mode, "mode", "="),
            "since": (since, "time", ">="),
            "until": (until, "time", "<"),
            "low": (low, "last", ">="),
            "high": (high, "first", "<="),
        }
        conditions = ["1 = 1"]
        values = {}
        for name, (value, column, comparison) in given.items():
            if value is not None:
                conditions.append(f"{self._names[column]} {comparison} ${name}")
                values[name] = value
        return " AND ".join(conditions), values

    def _records(self, sql: str, values: Mapping[str, Any]) -> Iterator[Record]:
        for row in self._database.select(sql, {}, dict(values)):
            one, key, caller, mode, first, last, at, expires, client, request_id, replays = row
            yield Record(
                int(one),
                None if key is None else _text(key),
                _text(caller),
                str(mode),
                int(first),
                int(last),
                int(at),
                int(expires),
                str(client),
                str(request_id),
                int(replays),
            )


def _text(value: str | bytes) -> str:
    """MySQL's binary strings, which compare exactly, come as bytes."""
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def statements(dialect: Dialect, mode_type: str) -> list[str]:
    """The SQL that creates the table where there is none.

    :param mode_type: the column type of a mode, as the counters have it.
    """
    columns = {
        "id": dialect.generated_key,
        "idempotency_key": f"{dialect.exact_text}({MAX_KEY_LENGTH})",
        "caller": f"{dialect.exact_text}({MAX_CALLER_LENGTH}) NOT NULL",
        "mode": f"{mode_type} NOT NULL",
        "first": "BIGINT NOT NULL",
        "last": "BIGINT NOT NULL",
        "time": "BIGINT NOT NULL",
        "expires": "BIGINT NOT NULL",
        "client": f"VARCHAR({MAX_CLIENT_LENGTH}) NOT NULL",
        "request_id": "VARCHAR(128) NOT NULL",
        "replays": "INTEGER NOT NULL DEFAULT 0",
    }
    # Rows without a key are not equal in the unique index: NULL is no value.
    indexes = {
        f"{TABLE}_key": (True, ("idempotency_key", "caller")),
        f"{TABLE}_mode": (False, ("mode", "first")),
        f"{TABLE}_expires": (False, ("expires",)),
        f"{TABLE}_time": (False, ("time",)),
    }
    return dialect.create_table(TABLE, columns, indexes)
