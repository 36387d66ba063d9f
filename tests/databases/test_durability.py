"""What a database server has to do so that a committed counter survives a crash and a power cut."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import servers
from pony.orm import db_session
from servers import MariaDB, PostgreSQL, Process, Service, run_cmd, wait_until

from uniqueid.database import schema
from uniqueid.database.dialects import DIALECTS
from uniqueid.database.durability import DurabilityMonitor
from uniqueid.errors import UnsafeSession

from .direct import Direct

WEAK_MARIADB = (
    "--log-bin",
    "--sync-binlog=0",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-flush-method=nosync",
    "--skip-innodb-doublewrite",
)


class Stores:
    """Stores that are closed at the end."""

    def __init__(self) -> None:
        self.opened: list[Direct] = []

    def __call__(self, url: str, *, required: bool = False) -> Direct:
        """A store with a memory of its own, as a service that was started again has."""
        direct = Direct(url, durability=DurabilityMonitor(required=required))
        self.opened.append(direct)
        return direct

    def problems(self, url: str) -> dict[str, str]:
        """The variables and values that a new session finds."""
        direct = self(url)
        direct.store.open()
        found = direct.store._engine._options.durability.problems
        return {problem.variable: problem.value for problem in found}


@pytest.fixture
def new_store() -> Iterator[Stores]:
    stores = Stores()
    yield stores
    for direct in stores.opened:
        direct.store.disconnect()


@pytest.fixture(scope="module")
def weak_mariadb() -> Iterator[MariaDB]:
    """A server with every variable as it should not be."""
    with servers.running(MariaDB(*WEAK_MARIADB)) as server:
        assert isinstance(server, MariaDB)
        yield server


@pytest.fixture
def own_mariadb() -> Iterator[MariaDB]:
    """A server with MariaDB's default for the binary log, once that is on."""
    with servers.running(MariaDB("--log-bin", "--sync-binlog=0")) as server:
        assert isinstance(server, MariaDB)
        yield server


@pytest.fixture(scope="module")
def slow_writer() -> Iterator[PostgreSQL]:
    """A server that writes an asynchronous commit long after its answer."""
    with servers.running(PostgreSQL("wal_writer_delay=10s", "log_statement=all")) as server:
        assert isinstance(server, PostgreSQL)
        yield server


# -- what a session sets ---------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["server", "database", "role"])
def test_no_id_comes_twice_where_commits_are_asynchronous(
    slow_writer: PostgreSQL, new_store: Stores, where: str
) -> None:
    """PostgreSQL crashes right after its answers; a new service asks again."""
    database = slow_writer.new_database()
    url = slow_writer.url(database)
    direct = new_store(url)
    schema.sync(direct.store)
    direct.first("file")
    direct.store.disconnect()
    change = {
        "server": "ALTER SYSTEM SET synchronous_commit = off",
        "database": f"ALTER DATABASE {database} SET synchronous_commit = off",
        "role": f"ALTER ROLE {slow_writer.USER} SET synchronous_commit = off",
    }[where]
    slow_writer.sql(change)
    slow_writer.sql("SELECT pg_reload_conf(); CHECKPOINT")
    try:
        wait_until(lambda: slow_writer.sql("SHOW synchronous_commit", database) == "off\n", "off")
        firsts = [direct.first("file") for _ in range(20)]
        direct.store.disconnect()
        slow_writer.crash()
        slow_writer.start()
        assert new_store(url).first("file") == firsts[-1] + 1
    finally:
        undo = {
            "server": "ALTER SYSTEM RESET synchronous_commit",
            "database": "SELECT 1",
            "role": f"ALTER ROLE {slow_writer.USER} RESET synchronous_commit",
        }[where]
        slow_writer.sql(undo)
        slow_writer.sql("SELECT pg_reload_conf()")


@pytest.mark.parametrize(
    ("default", "used"),
    [
        ("off", "on"),
        ("local", "on"),
        ("remote_write", "on"),
        ("on", "on"),
        ("remote_apply", "remote_apply"),
    ],
)
def test_a_weaker_synchronous_commit_is_raised_and_a_stronger_one_kept(
    postgresql: PostgreSQL, new_store: Stores, default: str, used: str
) -> None:
    """Whatever the server, the database or the URL says."""
    database = postgresql.new_database()
    postgresql.sql(f"ALTER DATABASE {database} SET synchronous_commit = {default}")
    url = postgresql.url(database)
    for each in (url, f"{url}?options=-c%20synchronous_commit%3D{default}"):
        store = new_store(each).store
        store.open()
        with db_session:
            shown = store.database.execute("SHOW synchronous_commit").fetchone()
        assert shown == (used,)


@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
@pytest.mark.parametrize("setting", ["isolation", "durability"])
def test_a_session_that_has_lost_its_settings_is_refused(
    direct: Direct, kind: str, setting: str
) -> None:
    """By the same check that follows the settings in each new session."""
    dialect = DIALECTS[direct.store.url.kind]
    statement, name = {
        ("mariadb", "isolation"): (
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "isolation level is READ-COMMITTED",
        ),
        ("mariadb", "durability"): ("SET SESSION sql_mode = ''", "sql_mode is"),
        ("postgresql", "isolation"): (
            "SET default_transaction_isolation = 'read committed'",
            "default_transaction_isolation is read committed",
        ),
        ("postgresql", "durability"): (
            "SET synchronous_commit = off",
            "synchronous_commit is off",
        ),
    }[servers.sql_of(kind), setting]
    with db_session, direct.store.database.get_connection().cursor() as cursor:
        assert dialect.check_session(cursor) == []
        cursor.execute(statement)
        with pytest.raises(UnsafeSession, match=name):
            dialect.check_session(cursor)
    direct.store.disconnect()


@pytest.mark.parametrize("sql_mode", ["", "TRADITIONAL,EMPTY_STRING_IS_NULL", "ANSI,ORACLE"])
def test_nothing_of_the_server_s_sql_mode_is_inherited(
    own_mariadb: MariaDB, new_store: Stores, sql_mode: str
) -> None:
    """Some modes break the service's own statements, the lack of others its checks."""
    own_mariadb.sql(f"SET GLOBAL sql_mode = '{sql_mode}'")
    direct = new_store(own_mariadb.url(own_mariadb.new_database()))
    schema.sync(direct.store)
    schema.check(direct.store, equal=True)
    assert [direct.first("file", 10), direct.first("file")] == [1, 11]
    with db_session:
        mode = direct.store.database.execute("SELECT @@sql_mode").fetchone()[0]
    assert set(mode.split(",")) == {"STRICT_TRANS_TABLES", "NO_ENGINE_SUBSTITUTION"}


class PgBouncer(Process):
    """A pooler in front of PostgreSQL, with its default treatment of startup parameters."""

    def __init__(self, server: PostgreSQL) -> None:
        super().__init__()
        self.directory.chmod(0o755)
        self.config = self.directory / "pgbouncer.ini"
        users = self.directory / "users"
        users.write_text(f'"{server.USER}" ""\n')
        self.config.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {users}\npool_mode = session\n"
        )
        self.as_user = server.user()

    def user(self) -> str | None:
        return self.as_user

    def command(self) -> list[str]:
        return [servers.sbin("pgbouncer"), str(self.config)]


def test_settings_reach_a_server_behind_a_pooler(postgresql: PostgreSQL, new_store: Stores) -> None:
    """PgBouncer refuses the startup parameter with which the settings were once sent."""
    database = postgresql.new_database()
    postgresql.sql(f"ALTER DATABASE {database} SET synchronous_commit = off")
    with servers.running(PgBouncer(postgresql)) as pooler:
        direct = new_store(postgresql.url(database, pooler.port))
        schema.sync(direct.store)
        assert direct.first("file") == 1
        for name, value in {
            "synchronous_commit": "on",
            "default_transaction_isolation": "serializable",
            "lock_timeout": "1s",
        }.items():
            with db_session:
                shown = direct.store.database.execute(f"SHOW {name}").fetchone()
            assert shown == (value,)
        direct.store.disconnect()


# -- what only an operator sets --------------------------------------------------------------------


def test_each_weak_variable_of_mariadb_is_found(
    weak_mariadb: MariaDB, mariadb: MariaDB, new_store: Stores
) -> None:
    """And none on a server with its defaults, whose binary log is off."""
    assert new_store.problems(mariadb.url(mariadb.new_database())) == {}
    url = weak_mariadb.url(weak_mariadb.new_database())
    assert new_store.problems(url) == {
        "innodb_flush_log_at_trx_commit": "2",
        "sync_binlog": "0",
        "innodb_doublewrite": "OFF",
        "innodb_flush_method": "nosync",
    }
    for value, weak in (("0", True), ("1", False), ("2", True), ("3", False)):
        weak_mariadb.sql(f"SET GLOBAL innodb_flush_log_at_trx_commit = {value}")
        assert ("innodb_flush_log_at_trx_commit" in new_store.problems(url)) is weak
    for value, weak in (("1", False), ("2", True), ("1000", True)):
        weak_mariadb.sql(f"SET GLOBAL sync_binlog = {value}")
        assert ("sync_binlog" in new_store.problems(url)) is weak


def test_sync_binlog_matters_only_with_a_binary_log(mariadb: MariaDB, new_store: Stores) -> None:
    """MariaDB's defaults are both of them off."""
    assert mariadb.sql("SELECT @@log_bin, @@sync_binlog") == "0\t0\n"
    assert new_store.problems(mariadb.url(mariadb.new_database())) == {}


@pytest.fixture
def weak_postgresql(slow_writer: PostgreSQL) -> Iterator[PostgreSQL]:
    """A server whose operator has switched off what a power cut needs."""
    set_fsync(slow_writer, "off")
    yield slow_writer
    set_fsync(slow_writer, "on")


def set_fsync(server: PostgreSQL, value: str) -> None:
    for variable in ("fsync", "full_page_writes"):
        server.sql(f"ALTER SYSTEM SET {variable} = {value}")
        server.sql("SELECT pg_reload_conf()")
        wait_until(lambda: server.sql(f"SHOW {variable}") == f"{value}\n", variable)  # noqa: B023


def test_each_weak_variable_of_postgresql_is_found(
    weak_postgresql: PostgreSQL, postgresql: PostgreSQL, new_store: Stores
) -> None:
    """And none on a server with its defaults."""
    assert new_store.problems(postgresql.url(postgresql.new_database())) == {}
    url = weak_postgresql.url(weak_postgresql.new_database())
    assert new_store.problems(url) == {"fsync": "off", "full_page_writes": "off"}


def test_a_session_is_checked_once(slow_writer: PostgreSQL, new_store: Stores) -> None:
    """By a statement that a request does not pay for: the server's log has it once."""
    direct = new_store(slow_writer.url(slow_writer.new_database()))
    schema.sync(direct.store)
    direct.store.disconnect()
    begin = len(slow_writer.log.read_bytes())
    for _ in range(20):
        direct.first("file")
    written = slow_writer.log.read_bytes()[begin:]
    assert written.count(b"current_setting('fsync')") == 1
    assert written.count(b"UPDATE") >= 19


def warnings(service: Service) -> list[dict[str, str]]:
    """The log's lines about durability, so far."""
    lines = [
        json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")
    ]
    return [line for line in lines if line["message"].startswith("database may lose")]


def test_warn_serves_and_tells_everyone(weak_mariadb: MariaDB) -> None:
    """The log, a metric, the status page's data and dbchk, until the variable is corrected."""
    weak_mariadb.sql("SET GLOBAL sync_binlog = 0; SET GLOBAL innodb_flush_log_at_trx_commit = 1")
    url = weak_mariadb.url(weak_mariadb.new_database())
    service = Service(url, log_format="json")
    # The other two are read-only, and stay.
    stay = ["innodb_doublewrite", "innodb_flush_method"]
    with servers.running(service):
        assert service.allocate("file", 10) == (1, 10)
        assert service.get("/readyz")[0] == 200
        told = warnings(service)
        assert sorted(line["variable"] for line in told) == [*stay, "sync_binlog"]
        (line,) = [line for line in told if line["variable"] == "sync_binlog"]
        assert (line["level"], line["value"], line["needed"]) == ("warning", "0", "1")
        assert "SET GLOBAL sync_binlog = 1" in line["remedy"]
        assert service.metric("uniqueid_durability_problems") == 3
        problems = service.get("/status.json")[1]["durability_problems"]
        assert {problem["variable"] for problem in problems} == {*stay, "sync_binlog"}
        weak = run_cmd("dbchk", UNIQUEID_DATABASE_URL=url)
        assert weak.returncode == 0
        assert "warning: sync_binlog is 0, needed is 1" in weak.stderr
        weak_mariadb.sql("SET GLOBAL sync_binlog = 1")
        wait_until(
            lambda: service.metric("uniqueid_durability_problems") == 2, "sync_binlog corrected"
        )
        assert len(warnings(service)) == 3


def test_require_refuses_until_the_variable_is_corrected(own_mariadb: MariaDB) -> None:
    """At the start, in dbchk, and in a running service that needs a new session."""
    database = own_mariadb.new_database()
    url = own_mariadb.url(database)
    assert run_cmd("dbsync", UNIQUEID_DATABASE_URL=url).returncode == 0
    checked = run_cmd("dbchk", UNIQUEID_DATABASE_URL=url, UNIQUEID_DURABILITY="require")
    assert checked.returncode == 1
    assert "sync_binlog is 0, needed is 1: SET GLOBAL sync_binlog = 1" in checked.stderr
    service = Service(url, durability="require", request_timeout="2")
    try:
        service.launch()
        assert service.wait() != 0
        assert "sync_binlog is 0" in service.log.read_text()

        own_mariadb.sql("SET GLOBAL sync_binlog = 1")
        service.start()
        assert service.allocate("file", 10) == (1, 10)
        own_mariadb.sql("SET GLOBAL sync_binlog = 0")
        assert service.allocate("file", 10) == (11, 20)
        end_sessions(own_mariadb)
        status, answer = service.get("/getid?range=10&mode=file")
        assert (status, answer["type"]) == (503, "database-unavailable")
        assert "sync_binlog" not in json.dumps(answer)
        wait_until(lambda: service.get("/readyz")[0] == 503, "not ready")
        assert "sync_binlog is 0" in service.get("/readyz")[1]["checks"]["database"]

        own_mariadb.sql("SET GLOBAL sync_binlog = 1")
        wait_until(lambda: service.get("/readyz")[0] == 200, "ready again")
        assert service.allocate("file", 10)[0] == 21
        assert service.metric("uniqueid_durability_problems") == 0
    finally:
        service.remove()


def end_sessions(server: MariaDB) -> None:
    ids = server.sql(f"SELECT id FROM information_schema.processlist WHERE user = '{server.USER}'")
    server.sql("".join(f"KILL {number};" for number in ids.split()))


def test_what_sync_binlog_is_needed_for(own_mariadb: MariaDB, new_store: Stores) -> None:
    """Without the unsynced tail of the binary log, MariaDB rolls committed transactions back."""
    database = own_mariadb.new_database()
    direct = new_store(own_mariadb.url(database))
    schema.sync(direct.store)
    direct.first("file", 40)

    def cut() -> int:
        name, size = own_mariadb.sql("SHOW MASTER STATUS").split()[:2]
        # Nothing flushes InnoDB's own record of the commit in so short a time.
        answered = direct.first("file", 10)
        direct.store.disconnect()
        own_mariadb.kill()
        with (own_mariadb.data / name).open("r+b") as log:
            log.truncate(int(size))
        own_mariadb.start()
        return answered

    # InnoDB flushes that once a second: should it have been just then, the next cut shows it.
    for _ in range(5):
        answered = cut()
        if new_store(own_mariadb.url(database)).first("file", 10) == answered:
            break
    else:
        pytest.fail("no cut of the binary log has taken a commit back")
    with pytest.raises(UnsafeSession, match="sync_binlog is 0"):
        new_store(own_mariadb.url(database), required=True).store.open()


def test_postgresql_require_recovers_as_well(weak_postgresql: PostgreSQL) -> None:
    """fsync is reloaded without a restart of the server."""
    url = weak_postgresql.url(weak_postgresql.new_database())
    assert run_cmd("dbsync", UNIQUEID_DATABASE_URL=url).returncode == 0
    checked = run_cmd("dbchk", UNIQUEID_DATABASE_URL=url, UNIQUEID_DURABILITY="require")
    assert checked.returncode == 1
    assert "fsync is off, needed is on" in checked.stderr
    set_fsync(weak_postgresql, "on")
    service = Service(url, durability="require")
    with servers.running(service):
        assert service.allocate("file", 10) == (1, 10)
        assert service.metric("uniqueid_durability_problems") == 0
