"""Counters regress under the running service: failover to a lagging replica, a restore."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import scenarios
import servers
from fault_proxy import Proxy
from history import is_503

POLICIES = ("advance", "stop")


def test_failover_to_a_lagging_replica(primary: servers.MariaDB, replica: servers.MariaDB) -> None:
    """Replication stops, the primary goes on, the older replica is promoted; then the way back to
    the old primary, which has not seen what happened since: once with each setting."""
    scenarios.failover_to_a_lagging_replica(primary, replica)


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
        with scenarios.make_scenario("base backup restored", "postgresql", url, policy) as scenario:
            restored = RestoredPostgreSQL(hurt_postgresql)
            with servers.running(restored):
                scenario.load.more_answers(200)
                proxy.point_at(restored.port)
                scenarios.check_report_and_repair(scenario, policy)
                scenario.finish()


@pytest.mark.parametrize("policy", POLICIES)
def test_postgresql_restored_from_a_dump(policy: str, hurt_postgresql: servers.PostgreSQL) -> None:
    """The database is dropped under the running service and made again from an older dump."""
    server = hurt_postgresql
    database = server.new_database()
    with scenarios.make_scenario(
        "dump restored", "postgresql", server.url(database), policy
    ) as scenario:
        dump = server.dump(database)
        scenario.load.more_answers(200)
        server.sql(f"DROP DATABASE {database} WITH (FORCE)")
        server.sql(f"CREATE DATABASE {database}")
        scenario.load.more(is_503, "a 503, since there is no table")
        server.sql(f"BEGIN;\n{dump}\nCOMMIT;", database)
        scenarios.check_report_and_repair(scenario, policy)


@pytest.mark.parametrize("policy", POLICIES)
def test_sqlite_file_replaced_by_an_older_copy(policy: str, new_url: Callable[[str], str]) -> None:
    """A copy made with SQLite's backup takes the place of the file under the running service."""
    scenarios.sqlite_file_replaced_by_an_older_copy(policy, new_url)


def test_sqlite_file_overwritten_in_place(new_url: Callable[[str], str]) -> None:
    """A copy written over the open file, which is a mistake, repeats no ID either."""
    url = new_url("sqlite")
    path = Path(url.removeprefix("sqlite:///"))
    with scenarios.make_scenario("file overwritten in place", "sqlite", url, "advance") as scenario:
        copy = path.with_name("copy.sqlite3")
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        scenario.load.more_answers(200)
        shutil.copyfile(copy, path)
        scenario.load.more_answers(200)


def test_sqlite_file_gone_for_a_while(new_url: Callable[[str], str]) -> None:
    """Without its file the service says 503, makes no empty one, and loses nothing of it."""
    url = new_url("sqlite")
    path = Path(url.removeprefix("sqlite:///"))
    away = path.with_name("away")
    with scenarios.make_scenario("file gone for a while", "sqlite", url, "stop") as scenario:
        os.rename(path, away)
        scenario.load.more(is_503, "a 503")
        assert not path.exists()
        os.rename(away, path)
        scenario.load.more_answers(200)
        assert scenario.service.metric("uniqueid_counter_regressions_total") == 0
