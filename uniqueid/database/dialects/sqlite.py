"""SQLite: one file, no server."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from typing import Any

from pony.orm.dbproviders import sqlite

from uniqueid.database.dialects.base import (
    LOCK_WAIT,
    Cause,
    ConnectOptions,
    Dialect,
    Select,
    Table,
    TableProblem,
    unique_keys,
)
from uniqueid.database.dialects.provider import is_single_statement, keep_connection
from uniqueid.database.durability import DurabilityProblem
from uniqueid.database.sqlite_file import SQLiteFile, file_at
from uniqueid.database_url import DatabaseURL
from uniqueid.errors import DatabaseUnavailable, UnsafeSession

# SQLite's result codes. What is missing here is `Cause.OTHER`.
_CAUSES = {
    sqlite3.SQLITE_BUSY: Cause.LOCK_TIMEOUT,
    sqlite3.SQLITE_LOCKED: Cause.LOCK_TIMEOUT,
    sqlite3.SQLITE_CANTOPEN: Cause.CONNECTION,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: Cause.DUPLICATE_KEY,
    sqlite3.SQLITE_CONSTRAINT_ROWID: Cause.DUPLICATE_KEY,
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: Cause.DUPLICATE_KEY,
    sqlite3.SQLITE_FULL: Cause.REFUSED,
    sqlite3.SQLITE_IOERR: Cause.REFUSED,
    sqlite3.SQLITE_READONLY: Cause.REFUSED,
    sqlite3.SQLITE_PERM: Cause.REFUSED,
    sqlite3.SQLITE_CORRUPT: Cause.REFUSED,
    sqlite3.SQLITE_NOTADB: Cause.REFUSED,
    sqlite3.SQLITE_NOMEM: Cause.REFUSED,
}


class SQLite(Dialect):
    """Values of any type can be stored in any column, so the rows are looked at as well."""

    name = "SQLite"
    drivers = ("sqlite3",)
    placeholder = "?"
    row_lock = ""
    row_values = "VALUES "
    # One transaction at a time writes to the file.
    locks_rows = False
    # A file that was replaced is left as soon as nothing has it open.
    session_per_health_check = True
    # An index can have another collation than its column, which the catalog does not tell.
    unique_keys_cover_collation = False
    generated_key = "INTEGER PRIMARY KEY AUTOINCREMENT"

    def binding(
        self, url: DatabaseURL, options: ConnectOptions
    ) -> tuple[type[SQLiteProvider], dict[str, Any]]:
        return SQLiteProvider, {
            "filename": url.database,
            "create_db": options.create,
            "timeout": LOCK_WAIT,
            "check_same_thread": False,
        }

    def check_writable(self, cursor: Any) -> None:
        # Another process that writes is no reason to wait, and shows that the file can be written.
        cursor.execute("PRAGMA busy_timeout = 0")
        try:
            super().check_writable(cursor)
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {LOCK_WAIT * 1000}")

    def cause_of(self, error: BaseException) -> Cause | None:
        if not isinstance(error, sqlite3.Error):
            return None
        if str(error).startswith("no such table"):
            # SQLite has no code of its own for it.
            return Cause.NO_TABLE
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:
            return Cause.OTHER
        # The low byte is the primary result code, the rest says more about it.
        return _CAUSES.get(code) or _CAUSES.get(code & 0xFF, Cause.OTHER)

    def may_recover(self, cause: Cause | None) -> bool:
        return cause is Cause.LOCK_TIMEOUT

    def host(self, url: DatabaseURL) -> str:
        return "a local file"

    def directory(self, url: DatabaseURL) -> str | None:
        return os.path.dirname(url.database)

    def is_missing(self, url: DatabaseURL) -> bool:
        return not os.path.lexists(url.database)

    def check_before_connect(self, url: DatabaseURL, create: bool) -> None:
        super().check_before_connect(url, create)
        # Without opening it, which would end the locks that this process has on it (SQLite's
        # documentation, "How To Corrupt An SQLite Database File", 2.2).
        path = url.database
        directory = os.path.dirname(path)
        reason = ""
        if os.path.isdir(path):
            reason = "it is a directory"
        elif not self.is_missing(url):
            if not os.access(path, os.R_OK | os.W_OK):
                reason = "this user may not read and write it, or it leads nowhere"
        elif not os.path.isdir(directory):
            reason = f"there is no directory {directory}"
        elif not os.access(directory, os.W_OK | os.X_OK):
            reason = f"this user may not write in the directory {directory}"
        if reason:
            raise DatabaseUnavailable(f"{path} cannot be opened: {reason}")

    def set_up_session(self, cursor: Any) -> list[DurabilityProblem]:
        # FULL: the fsync is done before COMMIT answers. WAL: one fsync a commit, and readers that
        # do not wait (SQLite's documentation, PRAGMA synchronous).
        cursor.execute("PRAGMA synchronous = FULL")
        _write_ahead(cursor)
        return self.check_session(cursor)

    def check_session(self, cursor: Any) -> list[DurabilityProblem]:
        """See that a COMMIT is on disk when it returns.

        Where a file system has no shared memory, SQLite stays in another journal mode without an
        error (SQLite's documentation, "Write-Ahead Logging").

        :raises UnsafeSession: when it is not.
        """
        ((journal_mode,),) = cursor.execute("PRAGMA journal_mode").fetchall()
        ((synchronous,),) = cursor.execute("PRAGMA synchronous").fetchall()
        if journal_mode != "wal":
            raise UnsafeSession(
                f"the journal mode of the SQLite file is {journal_mode}, and the service has set it"
                " to wal: put the file on a local file system, which supports the write-ahead log"
            )
        # 2 is FULL, 3 is EXTRA.
        if synchronous < 2:
            raise UnsafeSession(
                f"PRAGMA synchronous is {synchronous}, and the service has set it to 2 (FULL): use"
                " another build of SQLite"
            )
        return []

    def bad_row_condition(self, mode: str, next_id: str) -> str:
        general = super().bad_row_condition(mode, next_id)
        return f"typeof({mode}) <> 'text' OR typeof({next_id}) <> 'integer' OR {general}"

    def describe(self, select: Select, name: str) -> Table | None:
        found = select(
            "SELECT type, sql FROM sqlite_master WHERE name = $name COLLATE NOCASE"
            " AND type IN ('table', 'view')",
            {"name": name},
        )
        if not found:
            return None
        kind, sql = found[0]
        problems = []
        if kind == "view" or sql.upper().startswith("CREATE VIRTUAL"):
            what = "a view" if kind == "view" else "a virtual table"
            problems.append(
                TableProblem(
                    f"{name} is {what}, not a plain table",
                    f"rename it and put the table {name} in its place",
                )
            )
        columns = select("SELECT name, type, pk FROM pragma_table_info($name)", {"name": name})
        primary = frozenset(column for column, _type, position in columns if position)
        return Table(
            name,
            {column: type for column, type, _position in columns},
            unique_keys=self._unique_keys(select, name) | ({primary} if primary else set()),
            has_primary_key=bool(primary),
            problems=tuple(problems),
        )

    def _unique_keys(self, select: Select, name: str) -> frozenset[frozenset[str]]:
        # An expression has no column's name.
        rows = select(
            "SELECT list.name, info.name FROM pragma_index_list($name) AS list"
            " JOIN pragma_index_info(list.name) AS info"
            ' WHERE list."unique" AND NOT list.partial',
            {"name": name},
        )
        return unique_keys(rows)

    # SQLite's documentation, "Datatypes In SQLite", 3.1: the affinity of a declared type.

    def is_wide_integer(self, type: str) -> bool:
        return "INT" in type.upper()

    def is_narrow_integer(self, type: str) -> bool:
        return False

    def is_text(self, type: str) -> bool:
        name = type.upper()
        return "INT" not in name and any(part in name for part in ("CHAR", "CLOB", "TEXT"))

    def add_key(self, table: Table, *columns: str) -> str:
        # SQLite adds no primary key to a table.
        return self.add_unique_index(table, *columns)


def _write_ahead(cursor: Any) -> None:
    """Set a database's journal mode to WAL.

    SQLite does not wait for its time-out when two connections want to do so at once, since each
    would wait for the other: the first look at a new file by several processes.

    :raises sqlite3.OperationalError: when it is still locked after `LOCK_WAIT` seconds.
    """
    deadline = time.monotonic() + LOCK_WAIT
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= deadline:
                raise
        time.sleep(random.uniform(0.001, 0.02))


class SQLitePool(sqlite.SQLitePool):  # type: ignore[misc]
    """One connection to the file that the path leads to; `SQLiteFile` opens and closes it."""

    __slots__ = ("con", "file", "pid")

    con: sqlite3.Connection | None
    file: SQLiteFile

    def __init__(self, is_shared_memory_db: bool, filename: str, *args: Any, **kwargs: Any) -> None:
        self.file = file_at(filename)
        keep_connection(
            self,
            lambda: super(SQLitePool, self).__init__(
                is_shared_memory_db, filename, *args, **kwargs
            ),
        )

    def connect(self) -> tuple[Any, bool]:
        self.con, is_new = self.file.acquire(self.con, self._open)
        return self.con, is_new

    def _open(self) -> sqlite3.Connection:
        self._connect()
        connection, self.con = self.con, None
        assert connection is not None
        try:
            SQLite().set_up_session(connection.cursor())
        except BaseException:
            # A connection that is half set up is not used.
            connection.close()
            raise
        return connection

    def release(self, con: Any) -> None:
        try:
            if con.in_transaction:
                super().release(con)
        finally:
            self.file.release(con)

    def drop(self, con: Any) -> None:
        self.con = None
        self.file.close(con)

    def disconnect(self) -> None:
        if self.con is not None:
            self.drop(self.con)


class SQLiteProvider(sqlite.SQLiteProvider):  # type: ignore[misc]
    """SQLite in WAL mode with synchronous FULL."""

    def get_pool(
        self,
        is_shared_memory_db: bool,
        filename: str,
        create_db: bool = False,
        **kwargs: Any,
    ) -> SQLitePool:
        return SQLitePool(is_shared_memory_db, filename, create_db, **kwargs)

    # Without a BEGIN, a statement is a transaction.

    def set_transaction_mode(self, connection: Any, cache: Any) -> None:
        if is_single_statement(cache):
            cache.in_transaction = True
        else:
            super().set_transaction_mode(connection, cache)

    def commit(self, connection: Any, cache: Any = None) -> None:
        if cache is not None and is_single_statement(cache):
            cache.in_transaction = False
        else:
            super().commit(connection, cache)

    def rollback(self, connection: Any, cache: Any = None) -> None:
        if cache is not None and is_single_statement(cache):
            cache.in_transaction = False
        else:
            super().rollback(connection, cache)
