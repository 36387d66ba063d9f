"""Empty, old, current and newer schemas on each database."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pony.orm import db_session

from uniqueid.database import schema
from uniqueid.errors import DatabaseUnavailable, SchemaError

from .direct import Direct, run

OLD = 'CREATE TABLE uniqueindex ("id" VARCHAR(255) NOT NULL PRIMARY KEY, "index" INTEGER NOT NULL)'


def rows(direct: Direct) -> set[tuple[str, int]]:
    with db_session:
        found = direct.store.database.execute("SELECT part, value FROM uniqueindexsystem", {}, {})
        return {(str(part), int(value)) for part, value in found.fetchall()}


def test_an_empty_database_is_brought_to_the_current_version(bare: Direct) -> None:
    """Looking changes nothing, syncing can be repeated."""
    for _ in range(2):
        assert schema.pending(bare.store) == [
            "create the counters",
            "create the journal",
            "record version 1.1",
        ]
    with pytest.raises(
        SchemaError, match=r"no tables yet; if .* run 'pacifica-uniqueid-cmd dbsync'"
    ):
        schema.require(bare.store)
    assert schema.sync(bare.store) == [
        "create the counters",
        "create the journal",
        "record version 1.1",
    ]
    assert rows(bare) == {("major", 1), ("minor", 1)}
    assert schema.pending(bare.store) == schema.sync(bare.store) == []
    schema.check(bare.store, equal=True)
    assert bare.first("file") == 1


def test_a_database_of_0_2_1_keeps_its_values(bare: Direct) -> None:
    """Version 0.0 has one table, with a column that may have 32 bits."""
    run(bare, OLD, "INSERT INTO uniqueindex VALUES ('file', 2147483640)")
    with pytest.raises(SchemaError, match=r"version 0\.0.*; run 'pacifica-uniqueid-cmd dbsync'"):
        schema.require(bare.store)
    schema.sync(bare.store)
    assert rows(bare) == {("major", 1), ("minor", 1)}
    assert bare.store.counters() == {"file": 2147483640}
    assert bare.first("file", 100) == 2147483640
    assert bare.first("file", 1) == 2147483740


@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
def test_a_32_bit_column_under_version_1_0_is_widened_too(bare: Direct) -> None:
    """The old dbsync wrote the new version and left the old column."""
    run(
        bare,
        OLD,
        "CREATE TABLE uniqueindexsystem (part VARCHAR(255) NOT NULL PRIMARY KEY,"
        " value INTEGER NOT NULL)",
        "INSERT INTO uniqueindexsystem VALUES ('major', 1), ('minor', 0)",
    )
    with pytest.raises(SchemaError, match="32-bit"):
        schema.require(bare.store)
    assert schema.sync(bare.store) == [
        "widen the counters to 64 bits",
        "create the journal",
        "record version 1.1",
    ]
    schema.check(bare.store, equal=True)


def test_version_1_0_is_served_and_can_be_gone_back_to(bare: Direct) -> None:
    """Only dbchk --equal minds; the way forth again finds the rows that were there."""
    with pytest.raises(SchemaError, match="no tables yet"):
        schema.step_back(bare.store)
    schema.sync(bare.store)
    run(
        bare,
        'INSERT INTO uniqueidjournal (caller, mode, "first", "last", "time", expires, client,'
        " request_id) VALUES ('', 'file', 1, 10, 0, 0, '', '')",
    )
    assert schema.step_back(bare.store)
    assert not schema.step_back(bare.store)
    assert rows(bare) == {("major", 1), ("minor", 0)}
    schema.require(bare.store)
    with pytest.raises(SchemaError, match=r"version 1\.0; this release has version 1\.1"):
        schema.check(bare.store, equal=True)
    assert bare.first("file") == 1
    assert schema.sync(bare.store) == ["create the journal", "record version 1.1"]
    schema.check(bare.store, equal=True)
    assert bare.store.journal.who_has("file", 7) is not None


def test_a_newer_minor_version_is_served_and_left_alone(bare: Direct) -> None:
    """Only dbchk --equal minds."""
    schema.sync(bare.store)
    run(bare, "UPDATE uniqueindexsystem SET value = 7 WHERE part = 'minor'")
    schema.require(bare.store)
    assert schema.sync(bare.store) == []
    assert rows(bare) == {("major", 1), ("minor", 7)}
    with pytest.raises(SchemaError, match=r"version 1\.7; this release has version 1\.1"):
        schema.check(bare.store, equal=True)


def test_a_newer_major_version_is_refused_and_left_alone(bare: Direct) -> None:
    """By the server, dbchk and dbsync alike."""
    schema.sync(bare.store)
    run(bare, "UPDATE uniqueindexsystem SET value = 2 WHERE part = 'major'")
    for refuse in (schema.require, schema.check, schema.sync, schema.pending):
        with pytest.raises(SchemaError, match=r"version 2\.1; .*install a newer release"):
            refuse(bare.store)
    assert rows(bare) == {("major", 2), ("minor", 1)}


def test_several_processes_may_sync_at_once(bare: Direct) -> None:
    """As the pods of one release do."""
    barrier = threading.Barrier(4)

    def sync(_number: int) -> None:
        direct = Direct(bare.url)
        barrier.wait(30)
        try:
            schema.sync(direct.store)
        finally:
            direct.store.disconnect()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(sync, range(4)))
    schema.check(bare.store, equal=True)
    assert bare.first("file") == 1


def test_a_new_sqlite_file_may_be_opened_by_several_at_once(tmp_path: Path) -> None:
    """SQLite does not wait while two processes set the journal mode."""
    barrier = threading.Barrier(4)

    def look(number: int) -> None:
        direct = Direct(f"sqlite:///{tmp_path}/{number}.sqlite3")
        barrier.wait(30)
        try:
            direct.store.check_session()
        finally:
            direct.store.disconnect()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(look, [number for number in range(100) for _thread in range(4)]))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_sync_that_fails_leaves_nothing_behind(
    bare: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where DDL is transactional, all steps and the record of them commit together."""

    def fail(*_arguments: object) -> None:
        raise ZeroDivisionError

    create, record = schema._MIGRATIONS[0], schema._MIGRATIONS[-1]
    monkeypatch.setattr(schema, "_MIGRATIONS", [create, (*record[:2], fail)])
    with pytest.raises(DatabaseUnavailable):
        schema.sync(bare.store)
    assert schema.inspect(bare.store).version is None
