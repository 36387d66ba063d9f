"""Pony's provider for SQLite, made fit for counters (`uniqueid.database.providers`)."""

from __future__ import annotations

import random
import sqlite3
import time
from typing import Any

from pony.orm.dbproviders import sqlite

from uniqueid.database.dialects.base import LOCK_WAIT
from uniqueid.database.dialects.sqlite import SQLite
from uniqueid.database.pools import keep_connection
from uniqueid.database.sqlite_file import SQLiteFile, file_at


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
            # FULL: the fsync is done before COMMIT answers. WAL: one fsync a commit, and readers
            # that do not wait (SQLite's documentation, PRAGMA synchronous).
            connection.execute("PRAGMA synchronous = FULL")
            _write_ahead(connection)
            SQLite().verify_session(connection)
        except BaseException:
            # No thread may go on with a connection that is half set up.
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

    def alone(self, connection: Any) -> None:
        """Make the next statement a transaction of its own, as it is without a BEGIN."""

    def end_alone(self, connection: Any) -> None:
        """End that: the connection is no longer in use."""
        self.pool.release(connection)
