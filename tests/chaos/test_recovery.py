"""Nothing is left behind by faults and by many requests: threads, descriptors, memory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import servers
from fault_scenario import NOTES, kill_9, worker

RESTARTS = {"mariadb": 50, "mysql": 20, "postgresql": 50}
"""MySQL takes longest to start."""
REQUESTS = 200_000
WARM_UP = 20_000
GROWTH = 4 * 2**20
"""Bytes by which a process may grow over this many requests: less than 21 bytes a request."""

_SESSIONS = {
    "mysql": "SELECT count(*) FROM information_schema.processlist WHERE db = '{}'",
    "mariadb": "SELECT count(*) FROM information_schema.processlist WHERE db = '{}'",
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}'",
}


@pytest.fixture
def fresh_server(network: str) -> Iterator[servers.Process]:
    """A server with little in it, which is soon back: each goes through its files and logs."""
    small = ["--innodb-buffer-pool-size=8M", "--performance-schema=OFF"]
    # Nothing of this changes what a COMMIT waits for.
    small += ["--innodb-buffer-pool-load-at-startup=OFF"]
    server: servers.Process
    if network == "mariadb":
        server = servers.MariaDB("--innodb-log-file-size=4M", *small)
    elif network == "mysql":
        server = servers.MySQL("--innodb-redo-log-capacity=8M", *small)
    else:
        server = servers.PostgreSQL()
    with servers.running(server):
        yield server


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def descriptors(pid: int) -> list[str]:
    """What a process has open, by kind: the numbers of sockets differ."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}").partition(":[")[0])
        except FileNotFoundError:
            # Closed in between.
            continue
    return sorted(found)


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_nothing_leaks_over_database_restarts(
    network: str, fresh_server: servers.MariaDB | servers.PostgreSQL
) -> None:
    """After each the same process answers, with the same threads, descriptors and sessions."""
    server = fresh_server
    database = server.new_database()
    service = servers.Service(server.url(database), request_timeout="2")
    with servers.running(service):
        pid = worker(service)

        def held() -> tuple[int, list[str], str]:
            sessions = server.sql(_SESSIONS[network].format(database)).strip()
            return threads(pid), descriptors(pid), sessions

        def answers() -> bool:
            return service.get("/getid?range=1&mode=m")[0] == 200

        def restart(*, noticed: bool) -> None:
            kill_9(server)
            if noticed:
                # Else it is found out by the stale connection afterwards.
                assert not answers()
            server.start()
            servers.wait_until(answers, "an answer")

        restart(noticed=True)
        before = held()
        for number in range(1, RESTARTS[network]):
            restart(noticed=number % 10 == 0)
        assert worker(service) == pid
        with suppress(AssertionError):
            servers.wait_until(lambda: held() == before, "the same being held as before")
        assert held() == before
        assert before[2] == "1"
        first, _last = service.allocate("m", 1)
        assert first > RESTARTS[network]
        NOTES.append(
            f"{RESTARTS[network]} restarts of {network}: {before[0]} threads, {len(before[1])}"
            " descriptors and 1 session before and after"
        )


def test_memory_is_flat_over_200_000_requests(kind: str, new_url: Callable[[str], str]) -> None:
    """What a process holds after the warm-up is what it holds after 200,000 requests more."""
    service = servers.Service(new_url(kind))
    with servers.running(service):
        pid = worker(service)

        def serve(requests: int) -> None:
            end = service.metric("uniqueid_http_requests_total") + requests
            for _time in range(200):
                if service.metric("uniqueid_http_requests_total") >= end:
                    return
                subprocess.run(
                    ["wrk", "-t1", "-c64", "-d2s", f"{service.url}/getid?range=3&mode=m"],
                    check=True,
                    capture_output=True,
                )
            raise AssertionError(f"{requests} requests were not served")

        serve(WARM_UP)
        before = resident(pid)
        serve(REQUESTS)
        after = resident(pid)
        NOTES.append(
            f"memory, {kind}: {before / 2**20:.1f} MiB after {WARM_UP} requests,"
            f" {after / 2**20:.1f} MiB after {REQUESTS} more"
        )
        assert after - before < GROWTH
        assert worker(service) == pid
        assert service.metric("uniqueid_ids_total") % 3 == 0
