"""Tables that are not what allocation relies on are refused, and repaired where that is certain."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import servers
from pony.orm import db_session
from servers import MariaDB, PostgreSQL, Service, run_cmd, wait_until

from uniqueid.database import schema
from uniqueid.database.dialects.sqlite import SQLite
from uniqueid.errors import SchemaError, UnsafeSession

from .direct import Direct, run

REPAIR = "add missing unique keys"


def quoted(kind: str) -> str:
    """The counters' second column."""
    return "`index`" if servers.sql_of(kind) == "mariadb" else '"index"'


def replace_counters(direct: Direct, columns: str, *statements: str) -> None:
    """Put another table in the place of the counters."""
    schema.sync(direct.store)
    run(direct, "DROP TABLE uniqueindex", f"CREATE TABLE uniqueindex ({columns})", *statements)


def refused(direct: Direct, pattern: str, *, repairable: bool = False) -> None:
    """See that a start and dbchk refuse, and dbsync as well unless it can repair."""
    for refuse in (schema.require, schema.check):
        with pytest.raises(SchemaError, match=pattern):
            refuse(direct.store)
    if not repairable:
        for refuse in (schema.sync, schema.pending):
            with pytest.raises(SchemaError, match=pattern):
                refuse(direct.store)


def counters(direct: Direct) -> list[tuple[str, int]]:
    """All rows, also several of one mode."""
    column = quoted("mariadb" if direct.store.url.kind == "mysql" else "")
    with db_session:
        rows = direct.store.database.select(f"SELECT id, {column} FROM uniqueindex", {}, {})
    return sorted(tuple(row) for row in rows)


# -- the unique key --------------------------------------------------------------------------------


def test_two_rows_of_a_mode_without_a_key_are_refused_everywhere(bare: Direct, kind: str) -> None:
    """dbsync decides nothing: it adds the key once an operator has chosen the row."""
    column = quoted(kind)
    replace_counters(
        bare,
        f"id VARCHAR(255) NOT NULL, {column} BIGINT NOT NULL",
        "INSERT INTO uniqueindex VALUES ('file', 990), ('other', 5), ('file', 1000)",
    )
    rows = counters(bare)
    refused(bare, r"uniqueindex has 2 rows for the mode 'file', with next IDs from 990 to 1000")
    for command in ("show", "dbchk", "dbsync", "advance --all --by 1"):
        result = run_cmd(*command.split(), UNIQUEID_DATABASE_URL=bare.url)
        assert (result.returncode, result.stdout) == (1, "")
        assert "2 rows for the mode 'file'" in result.stderr
    service = Service(bare.url)
    service.launch()
    try:
        assert service.wait() != 0
        assert "2 rows for the mode 'file'" in service.log.read_text()
    finally:
        service.remove()
    assert counters(bare) == rows

    run(bare, f"DELETE FROM uniqueindex WHERE {column} = 990")
    refused(bare, "uniqueindex has no unique key on the column id; run", repairable=True)
    assert schema.sync(bare.store) == [REPAIR]
    schema.check(bare.store, equal=True)
    assert counters(bare) == [("file", 1000), ("other", 5)]
    assert bare.first("file") == 1000
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        run(bare, "INSERT INTO uniqueindex VALUES ('file', 1)")


KEYS = {
    "on both columns": ("all", 'CREATE UNIQUE INDEX k ON uniqueindex (id, "index")'),
    "on the other column": ("all", 'CREATE UNIQUE INDEX k ON uniqueindex ("index")'),
    "not unique": ("all", "CREATE INDEX k ON uniqueindex (id)"),
    "partial": ("sqlite postgresql", "CREATE UNIQUE INDEX k ON uniqueindex (id) WHERE id > 'g'"),
    "on an expression": ("sqlite postgresql", "CREATE UNIQUE INDEX k ON uniqueindex ((id || ''))"),
    "on a prefix": ("mariadb", "CREATE UNIQUE INDEX k ON uniqueindex (id(4))"),
}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_covers_less_than_id_is_none(bare: Direct, kind: str, key: str) -> None:
    """dbsync adds a right one, and leaves it where it is."""
    kinds, statement = KEYS[key]
    if kinds != "all" and servers.sql_of(kind) not in kinds:
        # The database has no such key.
        return
    replace_counters(
        bare,
        f"id VARCHAR(255) NOT NULL, {quoted(kind)} BIGINT NOT NULL",
        statement,
        "INSERT INTO uniqueindex VALUES ('file', 7)",
    )
    refused(bare, "no unique key on the column id", repairable=True)
    assert schema.sync(bare.store) == [REPAIR]
    assert schema.sync(bare.store) == []
    schema.check(bare.store, equal=True)
    assert bare.first("file") == 7


@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
def test_another_primary_key_is_left_and_a_unique_one_added(bare: Direct, kind: str) -> None:
    """Unless the column accepts NULL, which an operator has to change."""
    column = quoted(kind)
    numbered = {
        "mariadb": "number INT AUTO_INCREMENT PRIMARY KEY",
        "postgresql": "number SERIAL PRIMARY KEY",
    }[servers.sql_of(kind)]
    replace_counters(bare, f"id VARCHAR(255), {column} BIGINT NOT NULL, {numbered}")
    refused(bare, "the column id of uniqueindex accepts NULL; make it NOT NULL")
    not_null = {
        "mariadb": "ALTER TABLE uniqueindex MODIFY id VARCHAR(255) NOT NULL",
        "postgresql": "ALTER TABLE uniqueindex ALTER id SET NOT NULL",
    }[servers.sql_of(kind)]
    run(bare, not_null)
    assert schema.sync(bare.store) == [REPAIR]
    schema.check(bare.store, equal=True)
    assert [bare.first("file", 5), bare.first("file")] == [1, 6]


def test_several_processes_may_repair_at_once(bare: Direct, kind: str) -> None:
    """As the pods of one release do."""
    replace_counters(bare, f"id VARCHAR(255) NOT NULL, {quoted(kind)} BIGINT NOT NULL")
    barrier = threading.Barrier(4)

    def sync(_number: int) -> None:
        direct = Direct(bare.url)
        direct.store.open()
        barrier.wait(30)
        try:
            schema.sync(direct.store)
        finally:
            direct.store.disconnect()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(sync, range(4)))
    schema.check(bare.store, equal=True)


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_key_that_was_never_finished_is_none(bare: Direct) -> None:
    """CREATE INDEX CONCURRENTLY leaves an invalid index behind when it meets duplicates."""
    replace_counters(
        bare,
        'id VARCHAR(255) NOT NULL, "index" BIGINT NOT NULL',
        "INSERT INTO uniqueindex VALUES ('file', 990), ('file', 1000)",
    )
    connection = bare.store.database.provider.connect()[0]
    connection.rollback()
    connection.autocommit = True
    with connection.cursor() as cursor, pytest.raises(Exception, match="duplicate"):
        cursor.execute("CREATE UNIQUE INDEX CONCURRENTLY k ON uniqueindex (id)")
    refused(bare, "2 rows for the mode 'file'")


@pytest.mark.parametrize("kind", ["sqlite"])
def test_an_index_that_compares_otherwise_than_its_column_does_not_hide_duplicates(
    bare: Direct,
) -> None:
    """SQLite finds both rows for either of the modes."""
    replace_counters(
        bare,
        'id VARCHAR(255) COLLATE NOCASE, "index" BIGINT NOT NULL',
        "CREATE UNIQUE INDEX k ON uniqueindex (id COLLATE BINARY)",
        "INSERT INTO uniqueindex VALUES ('file', 990), ('FILE', 1000)",
    )
    refused(bare, "(?i)2 rows for the mode 'file'")


@pytest.mark.parametrize("kind", ["postgresql"])
def test_an_index_that_compares_otherwise_than_its_column_is_no_key(
    bare: Direct, postgresql: PostgreSQL
) -> None:
    """Two spellings of one counter would both have a row."""
    postgresql.sql(
        "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2',"
        " deterministic = false)",
        bare.store.url.database,
    )
    replace_counters(
        bare,
        'id VARCHAR(255) COLLATE nocase NOT NULL, "index" BIGINT NOT NULL',
        'CREATE UNIQUE INDEX k ON uniqueindex (id COLLATE "C")',
        "INSERT INTO uniqueindex VALUES ('file', 990), ('FILE', 1000)",
    )
    refused(bare, "(?i)2 rows for the mode 'file'")
    run(bare, 'DELETE FROM uniqueindex WHERE "index" = 990')
    assert schema.sync(bare.store) == [REPAIR]
    schema.check(bare.store)


# -- columns and rows ------------------------------------------------------------------------------

INDEX_TYPES = {
    "sqlite": ["TEXT", "REAL", "NUMERIC", ""],
    "mariadb": ["DOUBLE", "DECIMAL(20, 0)", "VARCHAR(20)"],
    "postgresql": ["DOUBLE PRECISION", "NUMERIC", "TEXT"],
}
ID_TYPES = {
    "sqlite": ["INTEGER", "NUMERIC", "BLOB"],
    "mariadb": ["CHAR(255)", "VARBINARY(255)", "ENUM('file')"],
    "postgresql": ["CHAR(255)", "NAME", "BYTEA"],
}
GOOD_COLUMNS = {
    "sqlite": ["id TEXT PRIMARY KEY, {} INTEGER", "id VARCHAR(9) UNIQUE, {} UNSIGNED BIG INT"],
    "mariadb": [
        "id VARCHAR(64) PRIMARY KEY, {} BIGINT UNSIGNED",
        "id VARCHAR(255) NOT NULL UNIQUE, {} BIGINT",
    ],
    "postgresql": [
        "id TEXT PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, {} BIGINT",
        "id VARCHAR NOT NULL, {} BIGINT, UNIQUE (id) INCLUDE ({})",
    ],
}


@pytest.mark.parametrize("number", range(4))
def test_a_counter_column_that_is_no_integer_is_refused(
    bare: Direct, kind: str, number: int
) -> None:
    """As an import of a CSV file makes it; a REAL repeats a range from 2**53 on."""
    for type in INDEX_TYPES[servers.sql_of(kind)][number : number + 1]:
        column = quoted(kind)
        replace_counters(
            bare,
            f"id VARCHAR(255) NOT NULL PRIMARY KEY, {column} {type}",
            "INSERT INTO uniqueindex VALUES ('file', '9007199254740992')",
        )
        refused(bare, "the column index of uniqueindex has the type .*copy its rows into a table")


@pytest.mark.parametrize("number", range(3))
def test_a_mode_column_that_changes_modes_is_refused(bare: Direct, kind: str, number: int) -> None:
    """By padding, shortening or converting them."""
    type = ID_TYPES[servers.sql_of(kind)][number]
    replace_counters(bare, f"id {type} NOT NULL PRIMARY KEY, {quoted(kind)} BIGINT NOT NULL")
    refused(bare, "the column id of uniqueindex has the type ")


@pytest.mark.parametrize("number", range(2))
def test_other_spellings_of_a_good_table_are_served(bare: Direct, kind: str, number: int) -> None:
    """A zero is an unused counter, and the highest value an exhausted one."""
    columns = GOOD_COLUMNS[servers.sql_of(kind)][number].replace("{}", quoted(kind))
    replace_counters(
        bare, columns, f"INSERT INTO uniqueindex VALUES ('zero', 0), ('last', {2**63 - 1})"
    )
    schema.check(bare.store, equal=True)
    assert schema.sync(bare.store) == []
    assert [bare.first("file", 5), bare.first("file"), bare.first("zero")] == [1, 6, 1]


ROWS = {
    "negative": ("all", "('file', -5)", "next ID of mode 'file' is -5, and must be from 0 to"),
    "no ID": ("all", "('file', NULL)", "next ID of mode 'file' is NULL, which is not an integer"),
    "no mode": ("sqlite", "(NULL, 5)", "a row whose id is NULL"),
    "text": ("sqlite", "('file', 'x1')", "next ID of mode 'file' is 'x1'"),
    "fraction": ("sqlite", "('file', 9.5)", "next ID of mode 'file' is 9.5"),
    "float": ("sqlite", "('file', 1e19)", r"next ID of mode 'file' is 1e\+19"),
    "bytes": ("sqlite", "(x'00', 5)", "not text"),
    "too high": ("mariadb", f"('file', {2**63})", f"next ID of mode 'file' is {2**63}"),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_that_cannot_be_served_is_refused_with_its_mode(
    bare: Direct, kind: str, row: str
) -> None:
    """Each database stores other nonsense."""
    kinds, values, pattern = ROWS[row]
    if kinds not in ("all", servers.sql_of(kind)):
        return
    unsigned = "UNSIGNED" if row == "too high" else ""
    replace_counters(
        bare,
        f"id VARCHAR(255) PRIMARY KEY, {quoted(kind)} BIGINT {unsigned}",
        f"INSERT INTO uniqueindex VALUES {values}",
    )
    refused(bare, pattern)


@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
def test_a_mode_that_is_too_long_is_an_error_not_shortened(bare: Direct, kind: str) -> None:
    """A narrow column is served: what does not fit is refused."""
    replace_counters(bare, f"id VARCHAR(4) PRIMARY KEY, {quoted(kind)} BIGINT NOT NULL")
    schema.require(bare.store)
    outcomes = bare.advance({"filename": 1, "file": 5})
    assert isinstance(outcomes["filename"], Exception)
    assert outcomes["file"].first == 1  # type: ignore[union-attr]
    assert counters(bare) == [("file", 6)]


# -- kind and storage ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mariadb"])
@pytest.mark.parametrize("engine", ["MyISAM", "Aria", "MEMORY"])
@pytest.mark.parametrize("table", ["uniqueindex", "uniqueidjournal"])
def test_a_storage_engine_without_transactions_is_refused(
    bare: Direct, table: str, engine: str
) -> None:
    """The remedy that it names works."""
    schema.sync(bare.store)
    # MyISAM's keys have at most 1000 bytes.
    column = {"uniqueindex": "id", "uniqueidjournal": "mode"}[table]
    short = f"MODIFY {column} VARCHAR(255) CHARACTER SET latin1 NOT NULL"
    run(bare, f"ALTER TABLE {table} {short}, ENGINE = {engine}")
    pattern = f"the table {table} has the storage engine {engine}"
    refused(bare, pattern)
    with pytest.raises(SchemaError) as error:
        schema.require(bare.store)
    remedy = str(error.value).partition("convert it: ")[2]
    run(bare, remedy)
    schema.check(bare.store, equal=True)


VIEW = "CREATE VIEW uniqueindex AS SELECT * FROM counters"
RENAME = "ALTER TABLE uniqueindex RENAME TO counters"
STORAGE = {
    "view": ("all", [RENAME, VIEW], "uniqueindex is a view, not a plain table"),
    "virtual": (
        "sqlite",
        [RENAME, 'CREATE VIRTUAL TABLE uniqueindex USING fts5(id, "index")'],
        "uniqueindex is a virtual table",
    ),
    "versioned": (
        "mariadb",
        ["ALTER TABLE uniqueindex ADD SYSTEM VERSIONING"],
        "uniqueindex is a system versioned, not a plain table",
    ),
    "materialized": (
        "postgresql",
        [RENAME, VIEW.replace("VIEW", "MATERIALIZED VIEW")],
        "uniqueindex is a materialized view",
    ),
    "partitioned": (
        "postgresql",
        [
            RENAME,
            (
                'CREATE TABLE uniqueindex (id VARCHAR(255) PRIMARY KEY, "index" BIGINT)'
                " PARTITION BY HASH (id)"
            ),
        ],
        "uniqueindex is a partitioned table",
    ),
    "unlogged": (
        "postgresql",
        ["ALTER TABLE uniqueindex SET UNLOGGED"],
        r"uniqueindex is an unlogged table, .* ALTER TABLE public.uniqueindex SET LOGGED",
    ),
    "unlogged journal": (
        "postgresql",
        ["ALTER TABLE uniqueidjournal SET UNLOGGED"],
        "uniqueidjournal is an unlogged table",
    ),
    "inherited": (
        "postgresql",
        ["CREATE TABLE child () INHERITS (uniqueindex)"],
        "other tables inherit from public.uniqueindex",
    ),
    "row security": (
        "postgresql",
        [
            "ALTER TABLE uniqueindex ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE uniqueindex FORCE ROW LEVEL SECURITY",
            "CREATE ROLE plain_{} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO plain_{}",
        ],
        "row-level security hides rows of public.uniqueindex",
    ),
    "two schemas": (
        "postgresql",
        ['CREATE SCHEMA uniqueid; CREATE TABLE uniqueid.uniqueindex (id TEXT, "index" BIGINT)'],
        (
            "the search_path leads to several tables uniqueindex: uniqueid.uniqueindex and"
            " public.uniqueindex"
        ),
    ),
}


@pytest.mark.parametrize("case", STORAGE)
def test_what_only_looks_like_the_table_is_refused(bare: Direct, kind: str, case: str) -> None:
    """It shows other rows than allocation writes, or loses them."""
    kinds, statements, pattern = STORAGE[case]
    if kinds not in ("all", kind):
        return
    schema.sync(bare.store)
    url = bare.url
    role = f"plain_{bare.store.url.database}"
    run(bare, *(statement.replace("plain_{}", role) for statement in statements))
    bare.store.disconnect()
    if case == "row security":
        # A superuser sees all rows all the same.
        url = url.replace("uniqueid@", f"{role}@")
    direct = Direct(url)
    try:
        refused(direct, pattern)
    finally:
        direct.store.disconnect()


@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
def test_a_running_service_tells_that_its_key_has_gone(
    bare: Direct, kind: str, request: pytest.FixtureRequest
) -> None:
    """And that it is there again, after dbsync."""
    server: MariaDB | PostgreSQL = request.getfixturevalue(kind)
    drop = {
        "mariadb": "ALTER TABLE uniqueindex DROP PRIMARY KEY",
        "postgresql": "ALTER TABLE uniqueindex DROP CONSTRAINT uniqueindex_pkey",
    }[servers.sql_of(kind)]
    service = Service(bare.url)
    with servers.running(service):
        assert service.get("/readyz")[0] == 200
        server.sql(drop, bare.store.url.database)
        wait_until(lambda: service.get("/readyz")[0] == 503, "not ready")
        assert "no unique key" in service.get("/readyz")[1]["checks"]["schema"]
        service.cmd("dbsync")
        wait_until(lambda: service.get("/readyz")[0] == 200, "ready again")


# -- the journal -----------------------------------------------------------------------------------


def test_a_journal_without_its_key_is_refused_and_repaired(bare: Direct, kind: str) -> None:
    """Without it, two requests with one key could both have a range."""
    schema.sync(bare.store)
    drop = "DROP INDEX uniqueidjournal_key"
    # Another index takes the name, as a migration tool may have it.
    run(
        bare,
        f"{drop} ON uniqueidjournal" if servers.sql_of(kind) == "mariadb" else drop,
        "CREATE INDEX uniqueidjournal_key ON uniqueidjournal (idempotency_key, caller)",
        *(
            'INSERT INTO uniqueidjournal (idempotency_key, caller, mode, "first", "last", "time",'
            f" expires, client, request_id) VALUES ({key}, '', 'file', {first}, {first}, 0, 0,"
            " '', '')"
            for key, first in (("NULL", 1), ("NULL", 2), ("'k'", 3), ("'k'", 4))
        ),
    )
    refused(bare, "uniqueidjournal has 2 rows for the idempotency key 'k'")
    run(bare, 'DELETE FROM uniqueidjournal WHERE "first" = 4')
    refused(bare, "no unique key on the columns idempotency_key and caller", repairable=True)
    assert schema.sync(bare.store) == [REPAIR]
    schema.check(bare.store, equal=True)
    assert bare.store.journal.count() == 3


# -- SQLite's sessions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vfs", "pragma", "pattern"),
    [
        ("unix", "SELECT 1", ""),
        # Without shared memory, as on some file systems, there is no write-ahead log.
        ("unix-none", "SELECT 1", "journal mode of the SQLite file is delete, .* local file"),
        ("unix-dotfile", "SELECT 1", "journal mode of the SQLite file is delete"),
        ("unix", "PRAGMA synchronous = NORMAL", r"PRAGMA synchronous is 1, .* 2 \(FULL\)"),
        ("unix", "PRAGMA synchronous = OFF", "PRAGMA synchronous is 0"),
    ],
)
def test_a_sqlite_session_is_verified(
    new_url: Callable[[str], str], vfs: str, pragma: str, pattern: str
) -> None:
    """SQLite tells of a journal mode that it did not take by its answer alone."""
    path = new_url("sqlite").removeprefix("sqlite:///")
    connection = sqlite3.connect(f"file:{path}?vfs={vfs}", uri=True)
    try:
        for statement in ("PRAGMA synchronous = FULL", "PRAGMA journal_mode = WAL", pragma):
            connection.execute(statement).fetchall()
        if not pattern:
            SQLite().check_session(connection)
        else:
            with pytest.raises(UnsafeSession, match=re.compile(pattern)):
                SQLite().check_session(connection)
    finally:
        connection.close()
