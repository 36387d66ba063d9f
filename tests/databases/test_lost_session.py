"""A session that is lost between reading a counter under its lock and writing it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import servers
from pony.orm import OperationalError, db_session
from pony.orm.dbproviders import mysql, postgres
from servers import MariaDB, PostgreSQL, wait_until

from .direct import Direct

_SESSION = {"mariadb": "SELECT CONNECTION_ID()", "postgresql": "SELECT pg_backend_pid()"}
_KILL = {"mariadb": "KILL {}", "postgresql": "SELECT pg_terminate_backend({})"}
_COUNT = {
    "mariadb": "SELECT count(*) FROM information_schema.processlist WHERE id = {}",
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE pid = {}",
}


@pytest.mark.parametrize("reconnecting", [False, True], ids=["as shipped", "if Pony reconnected"])
@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
def test_session_killed_between_select_for_update_and_update(
    kind: str,
    reconnecting: bool,
    make_store: Callable[..., Direct],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another writer gets the range; the first starts again behind it.

    Two things keep the promise, and each is tried alone: no reconnecting inside a transaction,
    and an UPDATE that carries the value which was read.
    """
    server: MariaDB | PostgreSQL = request.getfixturevalue(kind)
    first, second = make_store(), make_store()
    assert first.first("m", 10) == 1
    # So that the first reads it.
    assert second.first("m", 10) == 11
    database = first.store.database
    if reconnecting:
        pony = {"mariadb": mysql.MySQLProvider, "postgresql": postgres.PGProvider}[
            servers.sql_of(kind)
        ]
        monkeypatch.setattr(
            database.provider,
            "should_reconnect",
            lambda error: pony.should_reconnect(database.provider, error),
        )
        # The store's own way to run an UPDATE never does.
        monkeypatch.setattr(first.store._engine, "execute", database._exec_sql)
    execute = database.provider.execute
    taken: list[int] = []

    def interfere(cursor: Any, sql: str, *arguments: Any) -> Any:
        if sql.startswith("UPDATE") and not taken:
            session = database.execute(_SESSION[servers.sql_of(kind)], {}, {}).fetchone()[0]
            server.sql(_KILL[servers.sql_of(kind)].format(session))
            wait_until(
                lambda: server.sql(_COUNT[servers.sql_of(kind)].format(session)).strip() == "0",
                "the end of the session",
            )
            # In another thread, since Pony makes one transaction of what one thread does.
            with ThreadPoolExecutor(1) as pool:
                taken.append(pool.submit(second.first, "m", 10).result(60))
        return execute(cursor, sql, *arguments)

    monkeypatch.setattr(database.provider, "execute", interfere)
    assert first.first("m", 10) == 31
    assert taken == [21]
    assert second.store.counters() == {"m": 41}


@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
@pytest.mark.parametrize("lost", ["killed", "network"])
def test_no_statement_of_a_transaction_moves_to_another_session(
    kind: str, lost: str, direct: Direct, request: pytest.FixtureRequest
) -> None:
    """The locks are gone with the session, so the transaction has to begin again."""
    server: MariaDB | PostgreSQL = request.getfixturevalue(kind)
    direct.first("m", 10)
    database = direct.store.database
    before = direct.store.connections

    @db_session(serializable=True)
    def transaction() -> None:
        session = database.execute(_SESSION[servers.sql_of(kind)], {}, {}).fetchone()[0]
        if lost == "killed":
            server.sql(_KILL[servers.sql_of(kind)].format(session))
        else:
            cut(database.get_connection())
        database.execute("SELECT 1", {}, {})

    with pytest.raises(OperationalError):
        transaction()
    assert direct.store.connections == before
    direct.store.disconnect()
    assert direct.first("m", 1) == 11


def cut(connection: Any) -> None:
    """Shut a connection's socket down, as a network does that was lost."""
    number = connection.fileno() if hasattr(connection, "fileno") else connection._sock.fileno()
    with socket.socket(fileno=os.dup(number)) as other:
        other.shutdown(socket.SHUT_RDWR)
