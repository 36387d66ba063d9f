"""The legacy service's databases, as it was told where they are."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import servers

from compatibility.upstream import Site
from uniqueid import database_url
from uniqueid.database.store import Store


@dataclass
class OldDatabase:
    """An empty database and the ways to it."""

    kind: str
    peewee_url: str
    sql: Callable[[str], str]
    """Runs a statement as its owner; what it prints."""

    def counters(self) -> dict[str, int]:
        """Each mode and its next ID."""
        store = Store(database_url.parse(self.peewee_url, "url", "test"))
        try:
            return store.counters()
        finally:
            store.disconnect()

    def tables(self) -> dict[str, str]:
        """Each table and its definition, in the database's own words."""
        names = ("uniqueindex", "uniqueindexsystem")
        return {name: text for name in names if (text := self._table(name))}

    def _table(self, name: str) -> str:
        if self.kind == "sqlite":
            return self.sql(f"SELECT sql FROM sqlite_master WHERE name = '{name}'")
        if self.kind == "mariadb":
            found = self.sql(f"SHOW TABLES LIKE '{name}'")
            return self.sql(f"SHOW CREATE TABLE {name}") if found else ""
        return self.sql(
            "SELECT column_name, data_type, character_maximum_length, is_nullable, column_default"
            f" FROM information_schema.columns WHERE table_name = '{name}'"
            " ORDER BY ordinal_position;"
            " SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
            f" WHERE conrelid = to_regclass('{name}') ORDER BY conname;"
            f" SELECT indexname, indexdef FROM pg_indexes WHERE tablename = '{name}'"
            " ORDER BY indexname;"
        )


PLAIN = "plain"
"""A user and a password without special characters: the legacy service does not decode its URL."""


def mariadb_database(
    mariadb: servers.MariaDB, options: str = "CHARACTER SET utf8mb4"
) -> OldDatabase:
    """An empty database on MariaDB, made with these options."""
    name = mariadb.new_database(options)
    mariadb.sql(
        f"CREATE USER IF NOT EXISTS {PLAIN} IDENTIFIED BY '{PLAIN}';"
        f" GRANT ALL ON {name}.* TO {PLAIN}"
    )
    url = f"mysql://{PLAIN}:{PLAIN}@127.0.0.1:{mariadb.port}/{name}"
    return OldDatabase("mariadb", url, lambda text: mariadb.sql(text, name))


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each of the databases that the legacy service can use: MySQL's accounts need more than it
    has."""
    return str(request.param)


@pytest.fixture
def old_database(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> OldDatabase:
    """An empty database of each kind."""
    if kind == "mariadb":
        return mariadb_database(request.getfixturevalue("mariadb"))
    if kind == "postgresql":
        server: servers.PostgreSQL = request.getfixturevalue("postgresql")
        name = server.new_database()
        return OldDatabase(kind, server.url(name), lambda text: server.sql(text, name))
    file = tmp_path / "db.sqlite3"

    def sql(text: str) -> str:
        with closing(sqlite3.connect(file)) as database, database:
            rows = database.execute(text).fetchall()
        return "\n".join("\t".join(str(value) for value in row) for row in rows)

    return OldDatabase(kind, f"sqliteext:///{file}", sql)


@pytest.fixture
def make_site() -> Iterator[Callable[[str, Path], Site]]:
    """Makes sites, which end with the test."""
    sites: list[Site] = []

    def make(peewee_url: str, package: Path) -> Site:
        sites.append(Site(peewee_url, package))
        return sites[-1]

    yield make
    for site in sites:
        site.remove()
