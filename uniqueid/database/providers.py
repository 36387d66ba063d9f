"""Pony's database providers, made fit for counters.

What differs from Pony's own: No provider reconnects inside a transaction: Pony would go on without
the locks that the lost session held, and hand out a range twice. Every session is serializable from
its start, which spares a round trip a transaction. A connection that goes back to its pool with
nothing open is left alone, which spares another. A pool has one connection, and whichever thread's
turn it is uses it. And a single statement can be a transaction of its own (`alone`), which spares
the round trips for BEGIN and COMMIT.
"""

from __future__ import annotations

from typing import Any

from pony.orm.dbapiprovider import DBAPIProvider, Pool, wrap_dbapi_exceptions
from pony.orm.dbproviders import mysql

from uniqueid.database.dialects.base import LOCK_WAIT
from uniqueid.database.dialects.mysql import MySQL
from uniqueid.database.durability import DurabilityMonitor
from uniqueid.database.pools import keep_connection
from uniqueid.database.sqlite_provider import SQLiteProvider
from uniqueid.database.url import DatabaseURL


def binding(
    url: DatabaseURL,
    *,
    create: bool,
    connect_timeout: float,
    answer_timeout: float,
    durability: DurabilityMonitor,
) -> tuple[type[DBAPIProvider], dict[str, Any]]:
    """The provider for a database and the arguments that Pony's `Database.bind` takes with it.

    :param create: whether SQLite may make its file; a server must not, or a mistyped path would
        be a fresh database that starts at 1.
    :param connect_timeout: seconds for a connection to a MySQL server to be made.
    :param answer_timeout: seconds after which a silent server is taken for lost.
    :param durability: takes the result of the checks in each new session.
    """
    if url.kind == "sqlite":
        return SQLiteProvider, {
            "filename": url.database,
            "create_db": create,
            "timeout": LOCK_WAIT,
            "check_same_thread": False,
        }
    if url.kind == "mysql":
        options = _mysql_arguments(url, connect_timeout, answer_timeout)
        return MySQLProvider, {**options, "durability": durability}
    from uniqueid.database.postgresql_provider import PostgreSQLProvider, arguments

    return PostgreSQLProvider, {**arguments(url, answer_timeout), "durability": durability}


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


class MySQLPool(Pool):  # type: ignore[misc]
    """One connection, serializable and strict from its start.

    :param durability: takes the result of the checks in each new session.
    """

    __slots__ = ("con", "durability", "pid")

    def __init__(self, durability: DurabilityMonitor, *args: Any, **kwargs: Any) -> None:
        self.durability = durability
        keep_connection(self, lambda: super(MySQLPool, self).__init__(*args, **kwargs))

    def _connect(self) -> None:
        super()._connect()
        try:
            with self.con.cursor() as cursor:
                self.durability.report(MySQL().set_up_session(cursor))
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

    def get_pool(self, *args: Any, durability: DurabilityMonitor, **kwargs: Any) -> MySQLPool:
        pool = super().get_pool(*args, **kwargs)
        return MySQLPool(durability, pool.dbapi_module, *pool.args, **pool.kwargs)

    def alone(self, connection: Any) -> None:
        """Make the next statement a transaction of its own; a round trip if the last was not."""
        connection.autocommit(True)

    def end_alone(self, connection: Any) -> None:
        """End that: nothing to do."""

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
