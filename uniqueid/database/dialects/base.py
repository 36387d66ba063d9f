"""What each database's dialect provides, and how it describes what it found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from uniqueid.database.durability import DurabilityProblem
from uniqueid.errors import MAX_ID, UnsafeSession

LOCK_WAIT = 1
"""Seconds for which a statement waits for a lock; InnoDB knows no shorter time. What is locked
for longer is tried again apart from the rest."""

Select = Callable[[str, Mapping[str, object]], Sequence[tuple[Any, ...]]]
"""Runs a SELECT of two columns or more, with `$name` for its values, and returns the rows."""


@dataclass(frozen=True)
class TableProblem:
    """Why a table cannot keep the promise."""

    found: str
    remedy: str
    """What an operator has to do."""
    repair: str = ""
    """The SQL with which ``dbsync`` repairs it; empty where only an operator can decide."""


@dataclass(frozen=True)
class Table:
    """A table as the catalog describes it."""

    name: str
    columns: Mapping[str, str] = field(default_factory=dict)
    """Name to type, as the dialect's own methods understand it."""
    nullable: frozenset[str] = frozenset()
    """The columns that accept NULL, where the database can change that."""
    unique_keys: frozenset[frozenset[str]] = frozenset()
    """The columns of each unique key which covers all rows and whole values."""
    has_primary_key: bool = False
    problems: tuple[TableProblem, ...] = ()
    """What is wrong with its kind and storage."""


class Dialect(ABC):
    """One database's SQL for verifying sessions and tables. It has no state."""

    unique_keys_cover_collation = True
    """Whether a unique key on a column is certain to compare as the column does."""

    def bad_row_condition(self, mode: str, next_id: str) -> str:
        """The SQL condition for rows of the counters' table that cannot be served.

        Zero is not among them: it is an unused counter, whose first ID is 1.

        :param mode: the mode's column, quoted.
        :param next_id: the next ID's.
        """
        return f"{mode} IS NULL OR {next_id} IS NULL OR {next_id} < 0 OR {next_id} > {MAX_ID + 1}"

    @abstractmethod
    def describe(self, select: Select, name: str) -> Table | None:
        """The table that an unqualified name leads to; None for none."""

    @abstractmethod
    def is_wide_integer(self, type: str) -> bool:
        """Whether a column of a type holds every integer from 0 to 2**63-1, exactly."""

    @abstractmethod
    def is_narrow_integer(self, type: str) -> bool:
        """Whether it is an integer of fewer bits, which ``dbsync`` can widen."""

    @abstractmethod
    def is_text(self, type: str) -> bool:
        """Whether it stores a mode unchanged or refuses it: never shortened, padded, converted."""

    def add_key(self, table: Table, quote: Callable[[str], str], *columns: str) -> str:
        """The SQL that adds a unique key.

        A primary key where there is none, since replication depends on it.
        """
        names = ", ".join(map(quote, columns))
        if not table.has_primary_key:
            return f"ALTER TABLE {quote(table.name)} ADD PRIMARY KEY ({names})"
        return self.add_unique_index(table, quote, *columns)

    def add_unique_index(self, table: Table, quote: Callable[[str], str], *columns: str) -> str:
        """The same beside a primary key. Its name is not one that an index made before can have."""
        names = ", ".join(map(quote, columns))
        index = quote(f"{table.name}_unique")
        return f"CREATE UNIQUE INDEX {index} ON {quote(table.name)} ({names})"


class ServerDialect(Dialect):
    """A dialect of a database server, whose variables outlive a session."""

    @abstractmethod
    def set_up_session(self, cursor: Any) -> list[DurabilityProblem]:
        """Set what a new session needs, and check it and the server.

        :param cursor: the driver's, outside a transaction.
        :returns: what is wrong with the server's variables.
        :raises UnsafeSession: when a setting of the session did not take effect.
        """

    @abstractmethod
    def check_session(self, cursor: Any) -> list[DurabilityProblem]:
        """The checks alone, on a session that is open already."""


def unique_keys(parts: Iterable[tuple[object, str | None]]) -> frozenset[frozenset[str]]:
    """The keys that cover all rows and whole values.

    :param parts: index and column of each part of the unique indexes; None for a part that is no
        whole column.
    """
    indexes: dict[object, set[str | None]] = {}
    for index, column in parts:
        indexes.setdefault(index, set()).add(column)
    return frozenset(
        frozenset(column for column in columns if column is not None)
        for columns in indexes.values()
        if None not in columns
    )


def verify(setting: str, value: object, *allowed: str) -> None:
    """Compare a session's setting with what the service has just set.

    :raises UnsafeSession: when it is another.
    """
    if str(value) not in allowed:
        raise UnsafeSession(
            f"the session's {setting} is {value}, and the service has set it to {allowed[0]}: a"
            " proxy or pooler on the way has to keep what a session sets (PgBouncer: pool_mode ="
            " session)"
        )
