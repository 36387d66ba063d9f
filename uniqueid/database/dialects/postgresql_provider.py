"""Pony's provider for PostgreSQL through psycopg2; apart from the dialect since the driver is an
extra."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from pony.orm.dbapiprovider import wrap_dbapi_exceptions
from pony.orm.dbproviders import postgres
from psycopg2 import OperationalError, extensions

from uniqueid.database.dialects.provider import is_single_statement, keep_connection
from uniqueid.database.url import DatabaseURL


def arguments(url: DatabaseURL, answer_timeout: float) -> dict[str, Any]:
    """What `psycopg2.connect` is called with (libpq's manual, parameter key words).

    libpq's own `connect_timeout` is not among it: it counts for blocking connections alone.
    """
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
        "connection_factory": type(
            "TimedConnection", (Connection,), {"answer_timeout": answer_timeout}
        ),
        "application_name": "pacifica-uniqueid",
        **{name: value for name, value in named.items() if value is not None},
        **dict(url.options),
        "dbname": url.database,
    }


class Connection(extensions.connection):  # type: ignore[misc]
    """A connection that knows how long it may wait."""

    answer_timeout: float | None = None
    """Seconds for the server's next words; None waits forever."""


def wait_for_answer(connection: Any) -> None:
    """Wait until the server has answered, but not forever.

    libpq waits for as long as the connection stands, and a stopped server, or a proxy that holds
    it up, stands forever. psycopg2 calls this wherever it would wait, in the whole process
    (psycopg2's manual, "Support for coroutine libraries"), and closes the connection if it raises.

    :raises psycopg2.OperationalError: when nothing came for the connection's time-out.
    """
    timeout = getattr(connection, "answer_timeout", None)
    while (state := connection.poll()) != extensions.POLL_OK:
        ready = select.poll()
        ready.register(
            connection.fileno(), select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
        )
        if not ready.poll(None if timeout is None else timeout * 1000):
            raise OperationalError(f"the server did not answer within {timeout:g} seconds")


class PostgreSQLPool(postgres.PGPool):  # type: ignore[misc]
    """One connection, serializable from its start.

    :param set_up_session: called with a cursor of each new connection, outside a transaction.
    """

    __slots__ = ("con", "pid", "set_up_session")

    def __init__(self, set_up_session: Callable[[Any], None], *args: Any, **kwargs: Any) -> None:
        self.set_up_session = set_up_session
        keep_connection(self, lambda: super(PostgreSQLPool, self).__init__(*args, **kwargs))

    def _connect(self) -> None:
        try:
            super()._connect()
            # Not in a transaction, whose end could take the settings back.
            self.con.autocommit = True
            with self.con.cursor() as cursor:
                self.set_up_session(cursor)
            self.con.autocommit = False
        except BaseException:
            # A session that is half set up is not used: Pony would keep it.
            self.disconnect()
            raise

    def release(self, con: Any) -> None:
        if con.status != extensions.STATUS_READY:
            con.rollback()


class PostgreSQLProvider(postgres.PGProvider):  # type: ignore[misc]
    """PostgreSQL without Pony's reconnecting and its DISCARD ALL after each transaction."""

    def should_reconnect(self, exc: BaseException) -> bool:
        return False

    def get_pool(
        self, *args: Any, set_up_session: Callable[[Any], None], **kwargs: Any
    ) -> PostgreSQLPool:
        extensions.set_wait_callback(wait_for_answer)
        return PostgreSQLPool(set_up_session, self.dbapi_module, *args, **kwargs)

    @wrap_dbapi_exceptions  # type: ignore[untyped-decorator]
    def set_transaction_mode(self, connection: Any, cache: Any) -> None:
        if is_single_statement(cache):
            # No round trip. The session's default is serializable, and psycopg2 sends no COMMIT.
            connection.autocommit = True
            cache.in_transaction = True
            return
        session = cache.db_session
        # DDL would commit step by step without a transaction.
        transaction = session is not None and (session.serializable or session.ddl)
        # No round trip: it is for the next BEGIN.
        connection.autocommit = False
        if transaction:
            connection.isolation_level = extensions.ISOLATION_LEVEL_SERIALIZABLE
        else:
            # A serializable reader of all counters could be refused because of those who write.
            connection.isolation_level = extensions.ISOLATION_LEVEL_READ_COMMITTED
        cache.in_transaction = transaction
