"""PostgreSQL through psycopg2; apart from the others since the driver is an extra."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from typing import Any

from pony.orm.dbapiprovider import wrap_dbapi_exceptions
from pony.orm.dbproviders import postgres
from psycopg2 import extensions

from uniqueid.database_url import DatabaseURL
from uniqueid.providers import LOCK_WAIT


def arguments(url: DatabaseURL, connect_timeout: int) -> dict[str, Any]:
    """What `psycopg2.connect` is called with (libpq's manual, parameter key words)."""
    settings = f"-c lock_timeout={LOCK_WAIT}s"
    options = dict(url.options)
    options["options"] = f"{options['options']} {settings}" if "options" in options else settings
    named = {
        "host": url.host,
        "port": url.port,
        "user": url.user,
        "password": url.password,
    }
    return {
        # A server that vanished without a word is noticed after about 11 seconds.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 11_000,
        "connect_timeout": connect_timeout,
        "application_name": "pacifica-uniqueid",
        **{name: value for name, value in named.items() if value is not None},
        **options,
        "dbname": url.database,
    }


class Handle:
    """A second handle on a connection's socket, with which another thread can end a wait.

    libpq waits for an answer for as long as the connection stands, and a proxy can hold it up for
    ever. The handle is a duplicate, so that it can never mean another connection's socket,
    whatever becomes of the first one.
    """

    def __init__(self, connection: Any) -> None:
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))

    def interrupt(self) -> None:
        """End whatever the connection waits for with an error."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the duplicate back."""
        self._socket.close()


class PostgreSQLPool(postgres.PGPool):  # type: ignore[misc]
    """One connection a thread, whose BEGIN says SERIALIZABLE."""

    def __init__(
        self, dbapi_module: Any, handles: dict[int, Handle], *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(dbapi_module, *args, **kwargs)
        self.handles = handles

    def _connect(self) -> None:
        super()._connect()
        self.con.set_session(isolation_level=extensions.ISOLATION_LEVEL_SERIALIZABLE)
        self.handles[threading.get_ident()] = Handle(self.con)

    def release(self, con: Any) -> None:
        if con.status != extensions.STATUS_READY:
            con.rollback()

    def drop(self, con: Any) -> None:
        self._forget()
        super().drop(con)

    def disconnect(self) -> None:
        self._forget()
        super().disconnect()

    def _forget(self) -> None:
        handle = self.handles.pop(threading.get_ident(), None)
        if handle is not None:
            handle.close()


class PostgreSQLProvider(postgres.PGProvider):  # type: ignore[misc]
    """PostgreSQL without Pony's reconnecting and its DISCARD ALL after each transaction."""

    def should_reconnect(self, exc: BaseException) -> bool:
        return False

    def get_pool(self, *args: Any, **kwargs: Any) -> PostgreSQLPool:
        self.handles: dict[int, Handle] = {}
        return PostgreSQLPool(self.dbapi_module, self.handles, *args, **kwargs)

    def interrupt(self, thread: int) -> None:
        """End the wait of a thread for its connection, if it has one."""
        handle = self.handles.get(thread)
        if handle is not None:
            handle.interrupt()

    @wrap_dbapi_exceptions  # type: ignore[untyped-decorator]
    def set_transaction_mode(self, connection: Any, cache: Any) -> None:
        serializable = cache.db_session is not None and cache.db_session.serializable
        if connection.autocommit is serializable:
            connection.autocommit = not serializable
        cache.in_transaction = serializable
