"""The database goes back under the running service: failover to a lagging replica, a restore."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import servers
from cell import Cell
from fault_proxy import Proxy
from history import is_503, is_regressed
from load import MODES

POLICIES = ("advance", "stop")


def make_cell(
    fault: str, kind: str, url: str, policy: str, initial: dict[str, int] | None = None
) -> Cell:
    """A cell with one of the two settings of on_regression."""
    settings = {"on_regression": policy}
    return Cell(
        f"{fault} ({policy})", kind, url, ambiguous=True, settings=settings, initial=initial
    )


def check_what_is_said(cell: Cell, policy: str) -> None:
    """The log, the metric and `/readyz` say what happened; under `stop` an operator mends it."""
    service = cell.service
    if policy == "stop":
        cell.load.more(is_regressed, "a refusal since a counter went back")
        status, document = service.get("/readyz")
        assert status == 503
        told = document["checks"]["counters"]
        found = re.findall(
            r"the counter of mode '(.+?)' has regressed: .*? advance it to (\d+)", told
        )
        assert found, told
        since = time.monotonic()
        cell.load.more(is_regressed, "a further refusal")
        assert not any(call.answered and call.begin > since for call in cell.load.history.calls), (
            "answered before the operator's command"
        )
        for mode, expected in found:
            said = service.cmd("advance", "--mode", mode, "--to", expected)
            assert re.fullmatch(rf"{re.escape(mode)}: \d+ -> {expected}\n", said)
    cell.load.more_answers(200)
    servers.wait_until(lambda: service.get("/readyz")[0] == 200, "the service being ready again")
    assert service.metric("uniqueid_counter_regressions_total") >= 1
    log = service.log.read_text()
    assert "counter regression detected" in log
    if policy == "stop":
        assert "counter regression resolved" in log


@pytest.fixture
def primary() -> Iterator[servers.MariaDB]:
    """A MariaDB server that others can follow."""
    with servers.running(servers.MariaDB("--server-id=1", "--log-bin=binlog")) as server:
        yield server


@pytest.fixture
def replica() -> Iterator[servers.MariaDB]:
    """A MariaDB server that takes no writes from clients."""
    with servers.running(servers.MariaDB("--server-id=2", "--read-only=1")) as server:
        yield server


def test_failover_to_a_lagging_replica(primary: servers.MariaDB, replica: servers.MariaDB) -> None:
    """Replication stops, the primary goes on, the older replica is promoted; then the way back to
    the old primary, which has not seen what happened since: once with each setting."""
    database = primary.new_database()
    replica.sql(
        f"CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={primary.port},"
        " MASTER_USER='root', MASTER_USE_GTID=slave_pos; START SLAVE"
    )

    def replicated() -> bool:
        if "uniqueindex\n" not in replica.sql("SHOW TABLES", database):
            return False
        return int(replica.sql("SELECT count(*) FROM uniqueindex", database)) == len(MODES)

    with Proxy(primary.port) as proxy:
        url = primary.url(database, proxy.port)
        with make_cell("failover to a lagging replica", "mariadb", url, "advance") as cell:
            servers.wait_until(replicated, "the replica following")
            replica.sql("STOP SLAVE")
            cell.load.more_answers(200)
            proxy.point_at(replica.port)
            cell.load.more(is_503, "a 503, since the replica takes no writes")
            replica.sql("RESET SLAVE ALL; SET GLOBAL read_only = 0")
            check_what_is_said(cell, "advance")
        initial = cell.final
        with make_cell("failover to a lagging replica", "mariadb", url, "stop", initial) as cell:
            cell.load.more_answers(200)
            proxy.point_at(primary.port)
            check_what_is_said(cell, "stop")


class RestoredPostgreSQL(servers.PostgreSQL):
    """A server on a base backup of another."""

    def __init__(self, original: servers.PostgreSQL) -> None:
        self.original = original
        servers.Process.__init__(self)
        self.options = ()
        self.bin = original.bin
        self.data = self.directory / "data"
        user = self.user()
        if user is not None:
            shutil.chown(self.directory, user)
        subprocess.run(
            [str(self.bin / "pg_basebackup"), "-D", str(self.data), "-c", "fast"]
            + ["-h", str(original.directory), "-p", str(original.port), "-U", self.USER],
            check=True,
            capture_output=True,
            cwd=self.directory,
            user=user,
        )


@pytest.mark.parametrize("policy", POLICIES)
def test_postgresql_restored_from_a_base_backup(
    policy: str, hurt_postgresql: servers.PostgreSQL
) -> None:
    """A server on an older base backup takes the place of the one that was in use."""
    database = hurt_postgresql.new_database()
    with Proxy(hurt_postgresql.port) as proxy:
        url = hurt_postgresql.url(database, proxy.port)
        with make_cell("base backup restored", "postgresql", url, policy) as cell:
            restored = RestoredPostgreSQL(hurt_postgresql)
            with servers.running(restored):
                cell.load.more_answers(200)
                proxy.point_at(restored.port)
                check_what_is_said(cell, policy)
                cell.finish()


@pytest.mark.parametrize("policy", POLICIES)
def test_postgresql_restored_from_a_dump(policy: str, hurt_postgresql: servers.PostgreSQL) -> None:
    """The database is dropped under the running service and made again from an older dump."""
    server = hurt_postgresql
    database = server.new_database()
    with make_cell("dump restored", "postgresql", server.url(database), policy) as cell:
        dump = server.dump(database)
        cell.load.more_answers(200)
        server.sql(f"DROP DATABASE {database} WITH (FORCE)")
        server.sql(f"CREATE DATABASE {database}")
        cell.load.more(is_503, "a 503, since there is no table")
        server.sql(f"BEGIN;\n{dump}\nCOMMIT;", database)
        check_what_is_said(cell, policy)


@pytest.mark.parametrize("policy", POLICIES)
def test_sqlite_file_replaced_by_an_older_copy(policy: str, new_url: Callable[[str], str]) -> None:
    """A copy made with SQLite's backup takes the place of the file under the running service."""
    url = new_url("sqlite")
    path = Path(url.removeprefix("sqlite:///"))
    with make_cell("file replaced", "sqlite", url, policy) as cell:
        copy = path.with_name("copy.sqlite3")
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        cell.load.more_answers(200)
        os.replace(copy, path)
        check_what_is_said(cell, policy)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_sqlite_file_overwritten_in_place(new_url: Callable[[str], str]) -> None:
    """What nobody should do, a copy written over the open file, hands nothing out twice either."""
    url = new_url("sqlite")
    path = Path(url.removeprefix("sqlite:///"))
    with make_cell("file overwritten in place", "sqlite", url, "advance") as cell:
        copy = path.with_name("copy.sqlite3")
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        cell.load.more_answers(200)
        shutil.copyfile(copy, path)
        cell.load.more_answers(200)


def test_sqlite_file_gone_for_a_while(new_url: Callable[[str], str]) -> None:
    """Without its file the service says 503, makes no empty one, and loses nothing of it."""
    url = new_url("sqlite")
    path = Path(url.removeprefix("sqlite:///"))
    away = path.with_name("away")
    with make_cell("file gone for a while", "sqlite", url, "stop") as cell:
        os.rename(path, away)
        cell.load.more(is_503, "a 503")
        assert not path.exists()
        os.rename(away, path)
        cell.load.more_answers(200)
        assert cell.service.metric("uniqueid_counter_regressions_total") == 0
