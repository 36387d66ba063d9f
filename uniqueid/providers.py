"""Pony's database providers, made fit for counters.

What differs from Pony's own: No provider reconnects inside a transaction: Pony would go on without
the locks that the lost session held, and hand out a range twice. Every session is serializable from
its start, which spares a round trip a transaction. A connection that goes back to its pool with
nothing open is left alone, which spares another. A pool has one connection, and whichever thread's
turn it is uses it. And a single statement can be a transaction of its own (`alone`), which spares
the round trips for BEGIN and COMMIT.
"""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pony.orm.dbapiprovider import DBAPIProvider, Pool, wrap_dbapi_exceptions
from pony.orm.dbproviders import mysql, sqlite

from uniqueid.database_url import DatabaseURL

log = logging.getLogger(__name__)

LOCK_WAIT = 1
"""Seconds for which a statement waits for a lock; InnoDB knows no shorter time. What is locked
for longer is tried again apart from the rest."""


def binding(
    url: DatabaseURL, *, create: bool, connect_timeout: float, answer_timeout: float
) -> tuple[type[DBAPIProvider], dict[str, Any]]:
    """The provider for a database and the arguments that Pony's `Database.bind` takes with it.

    :param create: whether SQLite may make its file; a server must not, or a mistyped path would
        be a fresh database that starts at 1.
    :param connect_timeout: seconds for a connection to a MySQL server to be made.
    :param answer_timeout: seconds after which a silent server is taken for lost.
    """
    if url.kind == "sqlite":
        return SQLiteProvider, {
            "filename": url.database,
            "create_db": create,
            "timeout": LOCK_WAIT,
            "check_same_thread": False,
        }
    if url.kind == "mysql":
        return MySQLProvider, _mysql_arguments(url, connect_timeout, answer_timeout)
    from uniqueid.postgresql_provider import PostgreSQLProvider, arguments

    return PostgreSQLProvider, arguments(url, answer_timeout)


def _mysql_arguments(
    url: DatabaseURL, connect_timeout: float, answer_timeout: float
) -> dict[str, Any]:
    options: dict[str, Any] = dict(url.options)
    if url.host is not None:
        options["host"] = url.host
    if url.port is not None:
        options["port"] = url.port
    if url.user is not None:
        options["user"] = url.user
    if url.password is not None:
        options["password"] = url.password
    if "ssl_verify_cert" in options:
        options["ssl_verify_cert"] = options["ssl_verify_cert"].lower() in (
            "1",
            "true",
            "yes",
        )
    if "unix_socket" in options or (
        url.host in (None, "localhost", "127.0.0.1", "::1")
        and not any(name.startswith("ssl") for name in options)
    ):
        # What does not leave the machine needs no encryption, which costs 18 ms a connection.
        options["ssl_disabled"] = True
    return {
        **options,
        "database": url.database,
        "charset": "utf8mb4",
        "connect_timeout": connect_timeout,
        "read_timeout": answer_timeout,
        "write_timeout": answer_timeout,
    }


def _identity(name: str) -> tuple[int, int] | None:
    """Which file is behind a name, however often that changes; None for no file."""
    try:
        status = os.stat(name)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Set a database's journal mode to WAL.

    SQLite does not wait for its time-out when two connections want to do so at once, since each
    would wait for the other: the first look at a new file by several processes.

    :raises sqlite3.OperationalError: when it is still locked after `LOCK_WAIT` seconds.
    """
    deadline = time.monotonic() + LOCK_WAIT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= deadline:
                raise
        time.sleep(random.uniform(0.001, 0.02))


_told_replaced: dict[str, tuple[int, int]] = {}
"""File names, and the last new file there that the log was told of: each thread finds it out."""


def keep_connection(pool: Pool, init: Callable[[], None]) -> None:
    """Let a pool be initialised for one more thread, with the connection it has.

    Pony's pools are `threading.local`, and are initialised in each thread. Slots of such a class
    are common to all threads (CPython's documentation, `_threading_local`).
    """
    connection, pid = getattr(pool, "con", None), getattr(pool, "pid", None)
    init()
    pool.con, pool.pid = connection, pid


class SQLitePool(sqlite.SQLitePool):  # type: ignore[misc]
    """One connection, made anew when the file is no longer the one that was opened."""

    __slots__ = ("con", "opened", "pid", "wal")

    opened: tuple[int, int] | None
    """The database's file as of the last connection."""
    wal: tuple[int, int] | None
    """The write-ahead log of that file."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not hasattr(self, "opened"):
            self.opened = self.wal = None
        keep_connection(self, lambda: super(SQLitePool, self).__init__(*args, **kwargs))

    def connect(self) -> tuple[Any, bool]:
        if self.con is not None:
            if _identity(self.filename) != self.opened:
                self.drop(self.con)
            elif self.wal is None:
                self.wal = _identity(f"{self.filename}-wal")
        connection, is_new = super().connect()
        return connection, is_new

    def _connect(self) -> None:
        # Looked at before: if the file is replaced in between, the next use opens it again.
        found = _identity(self.filename)
        if found is not None and found != self.opened:
            if self.opened is not None:
                self._leave_replaced_file(found)
            self.opened = found
        # SQLite removes the log with its last connection: the next has another, by the same name.
        self.wal = None
        super()._connect()
        if found is None:
            self.opened = _identity(self.filename)
        try:
            # FULL: the fsync is done before COMMIT answers. WAL: one fsync a commit, and readers
            # that do not wait (SQLite's documentation, PRAGMA synchronous).
            self.con.execute("PRAGMA synchronous = FULL")
            _write_ahead(self.con)
        except BaseException:
            # Nobody may go on with a connection that is half set up.
            self.drop(self.con)
            raise

    def _leave_replaced_file(self, found: tuple[int, int]) -> None:
        """Remove the write-ahead log of a file that another one has taken the place of.

        SQLite leaves the log where it is when its file has moved, and would apply it to whatever
        is there now (SQLite's documentation, "How To Corrupt An SQLite Database File", 1.4).
        """
        if _told_replaced.get(self.filename) != found:
            _told_replaced[self.filename] = found
            log.warning("the file %s was replaced; the new one is opened", self.filename)
        name = f"{self.filename}-wal"
        if self.wal is not None and _identity(name) == self.wal:
            with suppress(OSError):
                os.remove(name)

    def release(self, con: Any) -> None:
        if con.in_transaction:
            super().release(con)


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

    def alone(self, connection: Any) -> None:
        """Make the next statement a transaction of its own, as it is without a BEGIN."""


class MySQLPool(Pool):  # type: ignore[misc]
    """One connection, serializable and strict from its start."""

    __slots__ = ("con", "pid")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        keep_connection(self, lambda: super(MySQLPool, self).__init__(*args, **kwargs))

    def _connect(self) -> None:
        super()._connect()
        try:
            with self.con.cursor() as cursor:
                cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE")
                # Strict: a value out of range is an error. Otherwise it is bent to fit, which
                # made the old service answer with the same ID for ever.
                cursor.execute(
                    "SET SESSION sql_mode = CONCAT_WS(',', @@sql_mode, 'STRICT_TRANS_TABLES'),"
                    f" innodb_lock_wait_timeout = {LOCK_WAIT}"
                )
        except BaseException:
            # Nobody may go on with a session that is half set up: Pony would keep it.
            self.drop(self.con)
            raise

    def release(self, con: Any) -> None:
        if con.server_status & mysql.mysql_module.constants.SERVER_STATUS.SERVER_STATUS_IN_TRANS:
            super().release(con)


class MySQLProvider(mysql.MySQLProvider):  # type: ignore[misc]
    """MySQL and MariaDB through PyMySQL."""

    def should_reconnect(self, exc: BaseException) -> bool:
        return False

    def get_pool(self, *args: Any, **kwargs: Any) -> MySQLPool:
        pool = super().get_pool(*args, **kwargs)
        return MySQLPool(pool.dbapi_module, *pool.args, **pool.kwargs)

    def alone(self, connection: Any) -> None:
        """Make the next statement a transaction of its own; a round trip if the last was not."""
        connection.autocommit(True)

    @wrap_dbapi_exceptions  # type: ignore[untyped-decorator]
    def set_transaction_mode(self, connection: Any, cache: Any) -> None:
        cache.immediate = True
        # A round trip if the last statement was a transaction of its own.
        connection.autocommit(False)
        if cache.db_session is not None and cache.db_session.serializable:
            cache.in_transaction = True
        else:
            # A plain SELECT of a serializable InnoDB session locks the rows it reads.
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
