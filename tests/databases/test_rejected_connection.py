"""A start does not wait for a server that rejects the connection."""

from __future__ import annotations

import os
import socket
import subprocess
import time

import pytest
import servers
from servers import BIN

SETTINGS = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "UNIQUEID_CONNECT_WAIT": "60"}


def dbsync(url: str) -> subprocess.CompletedProcess[str]:
    """Run dbsync, which tries ten times, a minute apart."""
    return subprocess.run(
        [BIN / "pacifica-uniqueid-cmd", "dbsync"],
        env={**SETTINGS, "UNIQUEID_DATABASE_URL": url},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
    )


def rejected(url: str, reason: str, password: str = "") -> None:
    """It ends with one line that has the server's reason and no password."""
    result = dbsync(url)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "rejects the connection" in line
    assert reason in line
    assert not password or password not in line


def test_mariadb_rejects_password_user_and_database(mariadb: servers.MariaDB) -> None:
    name = mariadb.new_database()
    url = mariadb.url(name)
    password = url.split(":")[2].split("@")[0]
    rejected(url.replace(password, "swordfish"), "Access denied", "swordfish")
    rejected(url.replace(mariadb.USER, "stranger", 1), "Access denied")
    rejected(url.replace(name, "mysql"), "Access denied")
    rejected(url.replace(name, "test_no_such"), "Unknown database")


def test_postgresql_rejects_password_user_and_database(postgresql: servers.PostgreSQL) -> None:
    name = postgresql.new_database()
    postgresql.sql("CREATE USER guarded PASSWORD 'right'; CREATE USER unlisted")
    rules = postgresql.data / "pg_hba.conf"
    before = rules.read_text()
    guarded = "host all guarded 127.0.0.1/32 scram-sha-256\nhost all unlisted 127.0.0.1/32 reject\n"
    rules.write_text(guarded + before)
    postgresql.sql("SELECT pg_reload_conf()")
    url = postgresql.url(name)
    try:
        wrong = url.replace(postgresql.USER, "guarded:swordfish", 1)
        rejected(wrong, "password authentication failed", "swordfish")
        rejected(url.replace(postgresql.USER, "unlisted", 1), "pg_hba.conf rejects")
        rejected(url.replace(postgresql.USER, "stranger", 1), 'role "stranger" does not exist')
        rejected(url.replace(name, "no_such"), 'database "no_such" does not exist')
    finally:
        rules.write_text(before)
        postgresql.sql("SELECT pg_reload_conf()")


@pytest.mark.parametrize("kind", ["mysql", "postgresql"])
def test_a_server_that_is_not_there_yet_is_waited_for(kind: str) -> None:
    """The other errors of a connection are retried."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"{kind}://uniqueid:x@127.0.0.1:{closed.getsockname()[1]}/test"
        process = subprocess.Popen(
            [BIN / "pacifica-uniqueid-cmd", "dbsync"],
            env={**SETTINGS, "UNIQUEID_DATABASE_URL": url},
            cwd="/",
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            assert "not reached at attempt 1 of 10" in process.stderr.readline()
            time.sleep(1)
            assert process.poll() is None
        finally:
            process.kill()
            process.communicate()
