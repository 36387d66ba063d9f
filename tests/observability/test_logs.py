"""The log of the running service."""

from __future__ import annotations

import json
from pathlib import Path

import servers
from servers import Service


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


def test_a_problem_reaches_the_log_once() -> None:
    """However many requests and probes it meets; its end is told as well."""
    with servers.running(servers.PostgreSQL()) as server:
        assert isinstance(server, servers.PostgreSQL)
        url = server.url(server.new_database())
        with servers.running(Service(url, request_timeout="2")) as service:
            assert isinstance(service, Service)
            service.allocate("file", 5)
            server.stop()
            for _ in range(10):
                assert service.get("/getid?range=1&mode=file")[0] == 503
                assert service.get("/readyz")[0] == 503
            server.start()
            servers.wait_until(lambda: service.get("/readyz")[0] == 200, "ready again")
            assert service.allocate("file", 1)[0] >= 6
            service.stop()
            log = service.log.read_text()
    assert log.count("level=error") == 1
    assert log.count("not available") == 1
    assert log.count("the database answers again") == 1
    assert "503)" not in log
    assert "Traceback" not in log
