"""Readiness is the truth: ready is what can allocate, and nothing is allocated to find out."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import servers
from servers import MariaDB, MySQL, PostgreSQL, Service, wait_until

Own = Callable[[str], MariaDB | PostgreSQL]


@pytest.fixture
def own() -> Iterator[Own]:
    """Starts servers that a test may change."""
    started: list[MariaDB | PostgreSQL] = []

    def start(kind: str) -> MariaDB | PostgreSQL:
        kinds = {"mariadb": MariaDB, "mysql": MySQL, "postgresql": PostgreSQL}
        server = kinds[kind]()
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.abort()
        server.remove()


def database_check(service: Service) -> str:
    return str(service.get("/readyz")[1]["checks"]["database"])


def is_ready(service: Service) -> bool:
    return service.get("/readyz")[0] == 200


def refused_and_recovered(
    service: Service, reason: str, begin: Callable[[], object], end: Callable[[], object]
) -> None:
    """A state in which every allocation fails is unready everywhere, with its reason."""
    assert service.allocate("file", 5) == (1, 5)
    assert is_ready(service)
    begin()
    # Without a request for IDs.
    wait_until(lambda: not is_ready(service), "not ready")
    assert reason in database_check(service)
    assert service.metric("uniqueid_ready") == 0
    with pytest.raises(subprocess.CalledProcessError) as failed:
        service.cmd("dbchk")
    assert reason in failed.value.stderr
    status, _answer = service.get("/getid?range=1&mode=file")
    assert status == 503
    assert not is_ready(service)
    end()
    wait_until(lambda: is_ready(service), "ready again")
    assert service.allocate("file", 1) == (6, 6)
    service.cmd("dbchk")


@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
def test_a_read_only_server_is_not_ready(kind: str, own: Own) -> None:
    server = own(kind)
    name = server.new_database()
    service = Service(server.url(name), request_timeout="3")
    if kind == "postgresql":
        alter = f"ALTER DATABASE {name} SET default_transaction_read_only ="
        # Of new sessions only.
        ends = "; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = " + repr(
            name
        )
        on, off, reason = f"{alter} on{ends}", f"{alter} off{ends}", "read-only transaction"
    else:
        on, off, reason = "SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0", "--read-only"
    with servers.running(service):
        refused_and_recovered(service, reason, lambda: server.sql(on), lambda: server.sql(off))


@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
def test_a_role_without_update_is_not_ready(kind: str, own: Own) -> None:
    server = own(kind)
    name = server.new_database()
    if kind == "postgresql":
        server.sql("CREATE ROLE limited LOGIN; GRANT ALL ON SCHEMA public TO limited", name)
        url = server.url(name).replace(f"{server.USER}@", "limited@")
        on = "REVOKE UPDATE ON uniqueindex FROM limited"
        off = "GRANT UPDATE ON uniqueindex TO limited"
        reason = "permission denied"
    else:
        server.sql(f"CREATE USER limited IDENTIFIED BY 'x'; GRANT ALL ON {name}.* TO limited")
        url = f"mysql://limited:x@127.0.0.1:{server.port}/{name}"
        # Sessions keep the privileges of a whole database: it is not the session's default.
        on = (
            f"REVOKE ALL ON {name}.* FROM limited;"
            f" GRANT SELECT, INSERT, DELETE ON {name}.* TO limited"
        )
        off = f"GRANT ALL ON {name}.* TO limited"
        reason = "UPDATE command denied"

    def change(sql: str) -> None:
        server.sql(sql, name)
        if kind != "postgresql":
            ids = server.sql("SELECT id FROM information_schema.processlist WHERE user = 'limited'")
            for number in ids.split():
                server.sql(f"KILL {number}")

    service = Service(url, request_timeout="3")
    with servers.running(service):
        refused_and_recovered(service, reason, lambda: change(on), lambda: change(off))


def test_a_service_on_a_hot_standby_is_ready_when_it_is_promoted(own: Own) -> None:
    """It starts there, and says until then what is wrong."""
    primary = own("postgresql")
    assert isinstance(primary, PostgreSQL)
    name = primary.new_database()
    prepared = Service(primary.url(name))
    prepared.cmd("dbsync")
    prepared.remove()
    standby = PostgreSQL()
    subprocess.run(["rm", "-rf", str(standby.data)], check=True)
    subprocess.run(
        [str(primary.bin / "pg_basebackup"), "-D", str(standby.data), "-R", "-X", "stream"]
        + ["-h", str(primary.directory), "-p", str(primary.port), "-U", primary.USER, "-c", "fast"],
        check=True,
        cwd=standby.directory,
        user=standby.user(),
    )
    with servers.running(standby):
        service = Service(standby.url(name), request_timeout="3")
        try:
            # Not start(), which makes the tables.
            service.launch()
            wait_until(service.ready, "the service's start")
            assert not is_ready(service)
            assert "read-only transaction" in database_check(service)
            assert service.get("/getid?range=1&mode=file")[0] == 503
            standby.sql("SELECT pg_promote()")
            wait_until(lambda: is_ready(service), "ready")
            assert service.allocate("file", 2) == (1, 2)
        finally:
            service.remove()


@pytest.mark.parametrize("first", ["probe", "request"])
@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
def test_a_limit_of_one_connection_is_enough(kind: str, first: str, own: Own) -> None:
    """The allocator has it, and a health check that gets none is no sign of trouble."""
    server = own(kind)
    name = server.new_database()
    if kind == "postgresql":
        server.sql(
            "CREATE ROLE single LOGIN CONNECTION LIMIT 1; GRANT ALL ON SCHEMA public TO single",
            name,
        )
        url = server.url(name).replace(f"{server.USER}@", "single@")
    else:
        server.sql(
            "CREATE USER single IDENTIFIED BY 'x' WITH MAX_USER_CONNECTIONS 1;"
            f"GRANT ALL ON {name}.* TO single"
        )
        url = f"mysql://single:x@127.0.0.1:{server.port}/{name}"
    service = Service(url, request_timeout="5")
    with servers.running(service):
        if first == "probe":
            assert is_ready(service)
        for number in range(1, 6):
            assert service.allocate("file", 1) == (number, number)
            assert is_ready(service)
            assert service.metric("uniqueid_ready") == 1


def test_a_sqlite_file_of_another_user_is_not_ready_until_it_is_repaired(tmp_path: Path) -> None:
    """As after a restore by root: it can be read, and not written."""
    assert os.getuid() == 0, "run as root, which restores files of other users"
    user = pwd.getpwnam("nobody")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.owner() == "root" and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    directory = tmp_path / "data"
    directory.mkdir()
    os.chown(directory, user.pw_uid, user.pw_gid)
    file = directory / "db.sqlite3"

    class Unprivileged(Service):
        def user(self) -> str | None:
            return "nobody"

    service = Unprivileged(f"sqlite:///{file}")
    service.directory.chmod(0o755)
    for path in service.directory.iterdir():
        path.chmod(0o644)
    service.cmd("dbsync")
    os.chown(file, user.pw_uid, user.pw_gid)
    os.chown(service.directory, user.pw_uid, user.pw_gid)
    try:
        service.launch()
        wait_until(service.ready, "the service's start")
        assert service.allocate("file", 5) == (1, 5)
        assert is_ready(service)
        copy = tmp_path / "backup"
        subprocess.run(["sqlite3", file, f".backup {copy}"], check=True)
        copy.chmod(0o644)
        copy.rename(file)
        wait_until(lambda: not is_ready(service), "not ready")
        assert "read" in database_check(service)
        assert service.process is not None
        pid = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
        descriptors = Path(f"/proc/{pid.read_text().split()[0]}/fd")
        service.get("/getid?range=1&mode=file")
        before = len(list(descriptors.iterdir()))
        for _attempt in range(20):
            assert service.get("/getid?range=1&mode=file")[0] == 503
            assert not is_ready(service)
        assert len(list(descriptors.iterdir())) <= before + 2
        os.chown(file, user.pw_uid, user.pw_gid)
        wait_until(lambda: service.get("/getid?range=1&mode=file")[0] == 200, "an answer")
        wait_until(lambda: is_ready(service), "ready again")
    finally:
        service.remove()
