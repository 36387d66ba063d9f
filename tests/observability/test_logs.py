"""The log of the running service."""

from __future__ import annotations

import json
import socket
import sqlite3
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import servers
from servers import Service

from uniqueid.errors import MAX_ID


def test_the_log_begins_with_everything_that_counts(tmp_path: Path) -> None:
    """Version, database, schema and settings, and each request if wanted, as JSON."""
    service = Service(
        f"sqlite:///{tmp_path}/db.sqlite3",
        log_format="json",
        access_log="1",
        max_range="500",
        log_level="debug",
    )
    with servers.running(service):
        assert service.allocate("päth", 5) == (1, 5)
        service.stop()
        lines = [
            json.loads(line)
            for line in service.log.read_text().splitlines()
            if line.startswith('{"time"')
        ]
    (start,) = [line for line in lines if line["message"] == "pacifica-uniqueid starts"]
    assert start["version"]
    assert start["database"] == f"sqlite:///{tmp_path}/db.sqlite3"
    assert (start["schema"], start["max_range"]) == ("1.1", "500")
    (request,) = [line for line in lines if line.get("path") == "/getid"]
    assert (request["mode"], request["range"], request["start"]) == ("päth", 5, 1)
    assert (request["batch"], request["status"]) == (1, 200)
    (commit,) = [line for line in lines if line["message"] == "committed"]
    assert (commit["modes"], commit["ids"], commit["batch"]) == ("päth", 5, 1)


GONE = "uwsgi_proto_http_parser() -> client closed connection"


def test_while_it_serves_every_line_is_json(tmp_path: Path) -> None:
    """uWSGI says in plain text how it starts and ends, and that a client is gone in mid-request."""
    url = f"sqlite:///{tmp_path}/db.sqlite3"
    with servers.running(Service(url, log_format="json", access_log="1")) as service:
        assert isinstance(service, Service)
        begin = len(service.log.read_text())
        assert service.allocate("file", 1) == (1, 1)
        assert service.get("/getid?range=x&mode=file")[0] == 400
        assert service.get("/absent")[0] == 404
        (tmp_path / "db.sqlite3").rename(tmp_path / "away")
        assert service.get("/getid?range=1&mode=file", timeout=60)[0] == 503
        (tmp_path / "away").rename(tmp_path / "db.sqlite3")
        servers.wait_until(lambda: service.get("/readyz")[0] == 200, "ready again")
        with closing(sqlite3.connect(tmp_path / "db.sqlite3", isolation_level=None)) as other:
            # Clients that have gone by the time of their answer, as seen by the access log.
            other.execute("BEGIN IMMEDIATE")
            for _client in range(3):
                with socket.create_connection(("127.0.0.1", service.port)) as connection:
                    connection.sendall(b"GET /getid?range=77&mode=file HTTP/1.1\r\nHost: x\r\n\r\n")
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            other.execute("ROLLBACK")
        servers.wait_until(lambda: service.log.read_text().count('"range": 77') == 3, "the answers")
        # This one is gone within its request.
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(b"GET /getid?range=1&mode=file HTTP/1.1\r\n")
        servers.wait_until(lambda: GONE in service.log.read_text(), "uWSGI's line about it")
        assert service.allocate("file", 1)[0] > 1
        written = service.log.read_text()[begin:].splitlines()
    assert len(written) >= 5
    assert [line for line in written if not line.startswith('{"time"')] == [GONE]
    assert all(json.loads(line)["message"] for line in written if line != GONE)


def test_no_password_reaches_the_log(mariadb: servers.MariaDB) -> None:
    """Neither at the start nor when the database refuses."""
    service = Service(mariadb.url(mariadb.new_database()), log_level="debug", access_log="1")
    with servers.running(service):
        service.allocate("file", 1)
        service.stop()
        log = service.log.read_text()
    assert 'message="pacifica-uniqueid starts"' in log
    assert "database=" in log
    for secret in (mariadb.PASSWORD, servers.quote(mariadb.PASSWORD, safe="")):
        assert secret not in log


@pytest.fixture(scope="module")
def server() -> Iterator[servers.PostgreSQL]:
    """A database server that each test leaves running."""
    with servers.running(servers.PostgreSQL()) as server:
        assert isinstance(server, servers.PostgreSQL)
        yield server


def lines(service: Service) -> list[dict[str, str]]:
    """The service's own lines of level warning and above, so far."""
    found = (
        json.loads(line)
        for line in service.log.read_text().splitlines()
        if line.startswith('{"time"')
    )
    return [line for line in found if line["level"] != "info"]


def ask(service: Service) -> bool:
    """Ask for IDs; whether there were any."""
    return service.get("/getid?range=1&mode=file")[0] == 200


def probe(service: Service) -> bool:
    """Ask whether it is ready."""
    return service.get("/readyz")[0] == 200


@pytest.mark.parametrize("first", ["probe", "request", "both"])
def test_a_database_that_is_away_reaches_the_log_once(
    server: servers.PostgreSQL, first: str
) -> None:
    """Whichever thread finds it first: one line for its beginning, and one for its end."""
    url = server.url(server.new_database())
    service = Service(url, request_timeout="2", log_format="json")
    with servers.running(service):
        service.allocate("file", 5)
        assert probe(service)
        server.stop()
        try:
            if first == "request":
                assert not ask(service)
            elif first == "probe":
                servers.wait_until(lambda: not probe(service), "a probe that fails")
            with ThreadPoolExecutor(8) as pool:
                for _round in range(5):
                    asked = [pool.submit(ask, service) for _ in range(8)]
                    probed = [pool.submit(probe, service) for _ in range(8)]
                    assert not any(future.result(60) for future in asked + probed)
        finally:
            server.start()
        servers.wait_until(lambda: probe(service), "ready again")
        assert ask(service)
        servers.wait_until(lambda: len(lines(service)) > 1, "the end being told")
        for _ in range(5):
            assert probe(service)
            assert ask(service)
        service.stop()
        begun, over = lines(service)
        log = service.log.read_text()
    assert begun["level"] == "error"
    assert (begun["message"], over["message"]) == ("database unavailable", "database available")
    assert begun["cause"]
    assert "503)" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("first", ["probe", "request"])
def test_tables_that_are_gone_reach_the_log_once(server: servers.PostgreSQL, first: str) -> None:
    """With the command that repairs it, although the database answers."""
    database = server.new_database()
    service = Service(server.url(database), log_format="json")
    with servers.running(service):
        service.allocate("file", 5)
        assert probe(service)
        server.sql("ALTER TABLE uniqueindex RENAME TO elsewhere", database)
        server.sql("ALTER TABLE uniqueindexsystem RENAME TO elsewhere_too", database)
        if first == "request":
            assert not ask(service)
        for _ in range(5):
            servers.wait_until(lambda: not probe(service), "a probe that fails")
            assert not ask(service)
        server.sql("ALTER TABLE elsewhere RENAME TO uniqueindex", database)
        server.sql("ALTER TABLE elsewhere_too RENAME TO uniqueindexsystem", database)
        servers.wait_until(lambda: probe(service) and ask(service), "ready again")
        servers.wait_until(lambda: len(lines(service)) > 1, "the end being told")
        assert ask(service)
        service.stop()
        begun, over = lines(service)
    assert begun["message"] == "tables unusable"
    assert "run 'pacifica-uniqueid-cmd dbsync'" in begun["cause"]
    assert over["message"] == "tables usable"


def test_a_counter_that_went_back_reaches_the_log_once(server: servers.PostgreSQL) -> None:
    """And so does one at its end, however many requests and probes meet them."""
    database = server.new_database()
    service = Service(server.url(database), log_format="json")
    with servers.running(service):
        service.cmd("advance", "--mode", "full", "--to", str(MAX_ID))
        service.allocate("file", 500)
        service.allocate("other", 500)
        server.sql("UPDATE uniqueindex SET index = 5 WHERE id IN ('file', 'other')", database)
        for _ in range(5):
            assert ask(service)
            assert probe(service)
            assert service.get("/getid?range=9&mode=full")[0] == 409
        service.stop()
        told = lines(service)
    assert len(told) == 3, told
    regressions = [one for one in told if one["message"] == "counter regression detected"]
    assert sorted(one["mode"] for one in regressions) == ["file", "other"]
    assert {(one["database_next_id"], one["expected"]) for one in regressions} == {(5, 501)}
    assert sum("mode 'full' has 1 IDs left" in one["message"] for one in told) == 1
