"""A store that a test calls as the allocator does, and what happens on its database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import servers
from pony.orm import db_session
from psycopg2 import extensions
from servers import MariaDB, PostgreSQL

from uniqueid.database.dialects.postgresql_provider import wait_for_answer
from uniqueid.database.store import Outcome, Store
from uniqueid.database_url import parse


class Direct:
    """A synced store and short ways to use it."""

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self.store = Store(parse(url, "url", "test"), create=True, **options)

    def advance(
        self, totals: dict[str, int], floors: dict[str, int] | None = None, **options: Any
    ) -> dict[str, Outcome]:
        options.setdefault("deadline", time.monotonic() + 30)
        return self.store.advance(totals, floors or {}, **options)

    def first(self, mode: str, count: int = 1, **floors: int) -> int:
        """Advance one mode, which must work; the first ID."""
        outcome = self.advance({mode: count}, floors)[mode]
        assert not isinstance(outcome, Exception), outcome
        return outcome.first


def apart(direct: Direct, method: str, *arguments: Any, **options: Any) -> Any:
    """Call in another thread, as another process would: Pony has one session a thread."""

    def call() -> Any:
        try:
            return getattr(direct, method)(*arguments, **options)
        finally:
            direct.store.disconnect()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def kill_sessions(direct: Direct, kind: str, request: pytest.FixtureRequest) -> None:
    """End the server's side of every session on the database; SQLite has none."""
    if servers.sql_of(kind) == "mariadb":
        server: MariaDB = request.getfixturevalue(kind)
        name = direct.store.url.database
        ids = server.sql(f"SELECT id FROM information_schema.processlist WHERE db = '{name}'")
        for number in ids.split():
            server.sql(f"KILL CONNECTION {number}")
    elif kind == "postgresql":
        postgres: PostgreSQL = request.getfixturevalue("postgresql")
        postgres.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname = '{direct.store.url.database}'"
        )


@contextmanager
def round_trips(direct: Direct, kind: str) -> Iterator[list[str]]:
    """What is sent to the database meanwhile, each of which waits for an answer.

    Of PostgreSQL's driver it can only be seen that something is.
    """
    sent: list[str] = []
    connection = direct.store.database.provider.pool.con
    if kind == "sqlite":
        connection.set_trace_callback(sent.append)
        try:
            yield sent
        finally:
            connection.set_trace_callback(None)
    elif servers.sql_of(kind) == "mariadb":
        execute = connection._execute_command

        def note(command: int, sql: Any) -> Any:
            sent.append(sql.decode() if isinstance(sql, bytes) else sql)
            return execute(command, sql)

        connection._execute_command = note
        try:
            yield sent
        finally:
            del connection._execute_command
    else:

        def wait(waiting: Any) -> None:
            sent.append("")
            wait_for_answer(waiting)

        extensions.set_wait_callback(wait)
        try:
            yield sent
        finally:
            extensions.set_wait_callback(wait_for_answer)


def run(direct: Direct, *statements: str) -> None:
    """Run statements with names in double quotes, each in a transaction of its own."""
    direct.store.open()
    for statement in statements:
        with db_session:
            if direct.store.url.kind == "mysql":
                statement = statement.replace('"', "`")
            direct.store.database.execute(statement, {}, {})


def run_sql(direct: Direct, *statements: str) -> None:
    """Run statements as they are, in one transaction."""
    direct.store.open()
    with db_session(ddl=True):
        cursor = direct.store.database.get_connection().cursor()
        for statement in statements:
            cursor.execute(statement)


def lower(direct: Direct, mode: str, next_id: int) -> None:
    """Set a counter back, as a restored or lagging database would have it."""
    quote = '"' if direct.store.url.kind != "mysql" else "`"
    run_sql(
        direct,
        f"UPDATE uniqueindex SET {quote}index{quote} = {next_id} WHERE id = '{mode}'",
    )


def cipher(url: str) -> str:
    """The cipher of a session, empty for plain text."""
    store = Store(parse(url, "url", "test"))
    try:
        store.open()
        with db_session:
            row = store.database.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'").fetchone()
        return str(row[1])
    finally:
        store.disconnect()
