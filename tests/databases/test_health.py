"""Readiness on real databases: away, hanging, without tables, and back again."""

from __future__ import annotations

import os
import signal
import sqlite3
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import servers
from servers import MariaDB, MySQL, PostgreSQL, Process, Service, wait_until


@pytest.fixture(params=[MariaDB, MySQL, PostgreSQL])
def server(request: pytest.FixtureRequest) -> Iterator[MariaDB | PostgreSQL]:
    """A database server that may be hurt."""
    with servers.running(request.param()) as server:
        yield server


def halt(server: Process, number: int) -> None:
    """Stop or continue a server and, where there are some, its processes."""
    assert server.process is not None
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    server.signal(number)
    for child in children.split():
        os.kill(int(child), number)


def ready(service: Service) -> bool:
    return service.get("/readyz")[0] == 200


def test_a_database_that_hangs_is_told_within_seconds_and_holds_nothing_up(
    server: MariaDB | PostgreSQL,
) -> None:
    """While 64 clients wait for IDs, /livez and /metrics answer, and /readyz says what is wrong."""
    service = Service(server.url(server.new_database()), request_timeout="40")
    with servers.running(service):
        assert service.allocate("file", 1) == (1, 1)
        assert ready(service)
        with ThreadPoolExecutor(64) as pool:
            halt(server, signal.SIGSTOP)
            try:
                waiting = [
                    pool.submit(service.get, "/getid?range=1&mode=file", None, 120)
                    for _ in range(64)
                ]
                # Each within 20 seconds, half of what a request for IDs may wait.
                wait_until(lambda: service.get("/readyz", timeout=20)[0] == 503, "503")
                for _ in range(3):
                    status, document = service.get("/readyz", timeout=20)
                    assert status == 503
                    assert "answer" in document["checks"]["database"]
                    assert service.get("/livez", timeout=20)[0] == 200
                    with urllib.request.urlopen(f"{service.url}/metrics", timeout=20) as metrics:
                        assert b"uniqueid_queue_requests" in metrics.read()
            finally:
                halt(server, signal.SIGCONT)
            statuses = [future.result(120)[0] for future in waiting]
        assert set(statuses) <= {200, 503}
        wait_until(lambda: ready(service), "ready again")
        assert service.allocate("file", 1)[0] > statuses.count(200)


def test_a_database_that_is_away_is_told_and_seen_again(server: MariaDB | PostgreSQL) -> None:
    """Without any request for IDs in between."""
    service = Service(server.url(server.new_database()))
    with servers.running(service):
        assert ready(service)
        server.stop()
        wait_until(lambda: not ready(service), "not ready")
        assert service.get("/readyz")[1]["checks"]["database"] != "ok"
        server.start()
        wait_until(lambda: ready(service), "ready again")


def test_tables_that_go_away_are_told(tmp_path: Path) -> None:
    """By the schema's check, with the command that repairs it."""
    file = tmp_path / "db.sqlite3"
    with servers.running(Service(f"sqlite:///{file}")) as service:
        assert isinstance(service, Service)
        assert ready(service)
        with sqlite3.connect(file) as database:
            database.execute("DROP TABLE uniqueindexsystem")
        wait_until(lambda: not ready(service), "not ready")
        assert "dbsync" in service.get("/readyz")[1]["checks"]["schema"]
        service.cmd("dbsync")
        wait_until(lambda: ready(service), "ready again")
