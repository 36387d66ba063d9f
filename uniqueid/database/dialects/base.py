"""What each database's dialect provides, and how it describes what it found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pony.orm.dbapiprovider import DBAPIProvider

from uniqueid.database.durability import DurabilityMonitor, DurabilityProblem
from uniqueid.database_url import DatabaseURL
from uniqueid.errors import MAX_ID, SYNC_NEW, SchemaError, UnsafeSession

LOCK_WAIT = 1
"""Seconds for which a statement waits for a lock; InnoDB knows no shorter time. What is locked
for longer is tried again apart from the rest."""

IDLE_IN_TRANSACTION = 2
"""Seconds after which the database ends a session that is idle in a transaction. An instance that
is frozen or cut off would otherwise keep its locks for as long as TCP keeps the connection."""

Select = Callable[[str, Mapping[str, object]], Sequence[tuple[Any, ...]]]
"""Runs a SELECT of two columns or more, with `$name` for its values, and returns the rows."""


class Cause(Enum):
    """Why a transaction failed; the value is the metric's label."""

    CONNECTION = "connection"
    """The session is gone or of no use (a read-only replica): a new one may work."""
    SERIALIZATION = "serialization"
    """Another transaction was first."""
    DEADLOCK = "deadlock"
    LOCK_TIMEOUT = "lock_timeout"
    DUPLICATE_KEY = "duplicate_key"
    """Two processes used a mode, or created a table, for the first time."""
    NOT_STORABLE = "not_storable"
    """A text which the database's character set or column cannot hold."""
    NO_TABLE = "no_table"
    """The schema is not there: it was dropped, or it is another database."""
    LOST_UPDATE = "lost_update"
    """The counter was not what had been read: the lock on it was lost."""
    REFUSED = "refused"
    """No disk space, no privilege, a damaged file: every transaction would fail."""
    OTHER = "other"
    """Every error that its dialect does not list. It may concern a single request."""


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


@dataclass(frozen=True)
class ConnectOptions:
    """How a database is connected to."""

    create: bool
    """Whether a database without a server may be created; a server must not, or a mistyped URL
    would be a new database, whose counters start at 1."""
    connect_timeout: float
    """Seconds for a connection to a server to be made."""
    answer_timeout: float
    """Seconds after which a silent server is regarded as lost."""
    durability: DurabilityMonitor
    """Takes the result of the checks in each new session."""


class Dialect(ABC):
    """Everything that differs between the databases. It has no state."""

    name: str
    """As it is shown to users."""
    drivers: tuple[str, ...]
    """The packages whose errors are this database's."""
    placeholder = "%s"
    """Of the driver."""
    quote_character = '"'
    row_lock = " FOR UPDATE"
    """Ends a SELECT that locks the rows it reads."""
    row_values = ""
    """Stands before a list of rows in an IN condition."""
    locks_rows = True
    """Whether a lock time-out concerns one counter, and not the whole database."""
    session_per_health_check = False
    """Whether a health check must not keep its session open."""
    unique_keys_cover_collation = True
    """Whether a unique key on a column is certain to compare as the column does."""
    generated_key: str
    """The type of a primary key that numbers its rows."""
    exact_text = "VARCHAR"
    """The type of a text that is compared byte by byte, blanks at its end included."""

    def quote(self, name: str) -> str:
        """A name of a table, column or index, quoted."""
        character = self.quote_character
        return character + name.replace(character, character * 2) + character

    # -- sessions ---------------------------------------------------------------------------------

    @abstractmethod
    def binding(
        self, url: DatabaseURL, options: ConnectOptions
    ) -> tuple[type[DBAPIProvider], dict[str, Any]]:
        """Pony's provider, and the arguments that `Database.bind` takes with it."""

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

    def check_writable(self, cursor: Any) -> None:
        """Run what an allocation needs, without allocating: an UPDATE that matches no row.

        A read-only server, a read-only transaction and a missing privilege refuse it as well.

        :raises Exception: the driver's error.
        """
        table, next_id = self.quote("uniqueindex"), self.quote("index")
        cursor.execute(f"UPDATE {table} SET {next_id} = {next_id} WHERE 1 = 0")

    @abstractmethod
    def cause_of(self, error: BaseException) -> Cause | None:
        """What an error of the driver means; None when it is not this driver's."""

    def is_rejected(self, error: BaseException) -> bool:
        """Whether an error of the driver says that the server rejected the user, the password or
        the database's name."""
        return False

    def is_connection_limit(self, error: BaseException) -> bool:
        """Whether an error of the driver says that the server accepts no further connection."""
        return False

    def may_recover(self, cause: Cause | None) -> bool:
        """Whether a later connection may succeed where one failed."""
        return True

    # -- where the database is --------------------------------------------------------------------

    def host(self, url: DatabaseURL) -> str:
        """Where it is, without any other part of the URL."""
        return ",".join(
            f"{host or 'localhost'}:{port}" if port else host or "localhost"
            for host, port in url.addresses
        )

    def directory(self, url: DatabaseURL) -> str | None:
        """The directory in which this process stores the database; None for a server."""
        return None

    def is_missing(self, url: DatabaseURL) -> bool:
        """Whether there is certainly no database, which is seen without connecting."""
        return False

    def check_before_connect(self, url: DatabaseURL, create: bool) -> None:
        """See whether a connection can succeed, where its error would not say why it failed.

        :raises SchemaError: when there is no database, and none may be created.
        :raises DatabaseUnavailable: when it cannot be opened.
        """
        if not create and self.is_missing(url):
            # Waiting would not make it appear, and the counters of a new one start at 1.
            raise SchemaError(f"there is no file {url.database} yet", SYNC_NEW)

    # -- tables -----------------------------------------------------------------------------------

    def counters_options(self, select: Select) -> str:
        """What ends the statement that creates the counters' table."""
        return ""

    def mode_type(self, select: Select) -> str:
        """The type of a mode in another table, which compares it as the counters' table does."""
        return "VARCHAR(255)"

    def widen_column(self, table: str, column: str) -> str:
        """The SQL that changes an integer column to 64 bits."""
        return f"ALTER TABLE {self.quote(table)} ALTER COLUMN {self.quote(column)} TYPE BIGINT"

    def create_table(
        self,
        table: str,
        columns: Mapping[str, str],
        indexes: Mapping[str, tuple[bool, Sequence[str]]],
    ) -> list[str]:
        """The SQL that creates a table where there is none.

        :param columns: name to type.
        :param indexes: name to whether it is unique, and its columns.
        """
        quote = self.quote
        lines = ", ".join(f"{quote(name)} {type}" for name, type in columns.items())
        return [
            f"CREATE TABLE IF NOT EXISTS {quote(table)} ({lines})",
            *(
                f"CREATE {'UNIQUE ' if unique else ''}INDEX IF NOT EXISTS {quote(name)}"
                f" ON {quote(table)} ({', '.join(map(quote, parts))})"
                for name, (unique, parts) in indexes.items()
            ),
        ]

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

    def add_key(self, table: Table, *columns: str) -> str:
        """The SQL that adds a unique key.

        A primary key where there is none, since replication depends on it.
        """
        names = ", ".join(map(self.quote, columns))
        if not table.has_primary_key:
            return f"ALTER TABLE {self.quote(table.name)} ADD PRIMARY KEY ({names})"
        return self.add_unique_index(table, *columns)

    def add_unique_index(self, table: Table, *columns: str) -> str:
        """The same beside a primary key. Its name is not one that an index made before can have."""
        names = ", ".join(map(self.quote, columns))
        index = self.quote(f"{table.name}_unique")
        return f"CREATE UNIQUE INDEX {index} ON {self.quote(table.name)} ({names})"


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
