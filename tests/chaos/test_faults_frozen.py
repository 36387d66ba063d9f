"""An instance that is frozen or cut off in a transaction does not keep its locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import servers
from fault_scenario import NOTES, FaultScenario, processes
from link import Link

Server = servers.MariaDB | servers.PostgreSQL

MODE = "file"
ROUNDS = 20
"""At most: an instance is not always in a transaction when it is stopped."""
BLOCKED = 1.0
"""Seconds without an answer after which an instance held the lock. A statement waits for a lock
for one second."""


class Inside(servers.Service):
    """A service in a network namespace."""

    def __init__(self, link: Link, url: str, **settings: str) -> None:
        self.link = link
        super().__init__(url, **settings)

    def command(self) -> list[str]:
        listen = f"127.0.0.1:{self.port}"
        here = f"{self.link.there}:{self.port}"
        arguments = [here if part == listen else part for part in super().command()]
        return [*self.link.prefix, *arguments]

    @property
    def url(self) -> str:
        return f"http://{self.link.there}:{self.port}"


def without_answers(service: servers.Service) -> float:
    """Seconds until a service has answered a request for the mode, begun now."""
    begin = time.monotonic()
    servers.wait_until(
        lambda: service.get(f"/getid?range=1&mode={MODE}")[0] == 200, "an answer", timeout=30
    )
    return time.monotonic() - begin


def interrupt_until_blocked(
    service: servers.Service,
    other: servers.Service,
    stop: Callable[[], None],
    go_on: Callable[[], None],
) -> float:
    """Stop the other instance again and again, until it was in a transaction; the longest time."""
    longest = 0.0
    for _round in range(ROUNDS):
        stop()
        try:
            longest = max(longest, without_answers(service))
        finally:
            go_on()
        if longest > BLOCKED:
            return longest
        # It competes for the counter again.
        without_answers(other)
    raise AssertionError(f"no transaction was interrupted in {ROUNDS} rounds")


def test_a_frozen_instance_does_not_block_a_mode(network: str, server: Server) -> None:
    """SIGSTOP: the database ends its session, and the others are served while it is frozen."""
    scenario = FaultScenario(
        "SIGSTOP of one of 2 services", network, server.url(server.new_database()),
        ambiguous=True, processes=2, modes=[MODE],
    )  # fmt: skip
    with scenario:
        frozen, serving = scenario.services

        def send(number: int) -> None:
            for pid in processes(frozen):
                os.kill(pid, number)

        longest = interrupt_until_blocked(
            serving, frozen, lambda: send(signal.SIGSTOP), lambda: send(signal.SIGCONT)
        )
        scenario.load.more_answers(100)
    NOTES.append(
        f"one of 2 services frozen in a transaction, {network}: {longest:.1f} s without answers"
    )


@pytest.fixture
def link() -> Iterator[Link]:
    with Link() as link:
        yield link


@pytest.fixture
def reachable(network: str, link: Link) -> Iterator[Server]:
    """A database server that both networks reach."""
    if network == "postgresql":
        server: Server = servers.PostgreSQL(f"listen_addresses=127.0.0.1,{link.here}")
        rules = server.data / "pg_hba.conf"
        rules.write_text(f"host all all {link.network} trust\n{rules.read_text()}")
    else:
        kind = servers.MySQL if network == "mysql" else servers.MariaDB
        server = kind(f"--bind-address={link.here}")
        server.url = lambda *place: (
            type(server)
            .url(server, *place)
            .replace(  # type: ignore
                "127.0.0.1", link.here
            )
        )
    with servers.running(server):
        yield server


def test_an_instance_that_is_cut_off_does_not_block_a_mode(
    network: str, link: Link, reachable: Server, tmp_path: Path
) -> None:
    """No packet reaches the database or its session any more; no connection is closed."""
    url = reachable.url(reachable.new_database()).replace("127.0.0.1", link.here)
    scenario = FaultScenario(
        "network of one of 2 services cut", network, url, ambiguous=True, modes=[MODE]
    )
    apart = Inside(link, url, request_timeout="2")
    with scenario, servers.running(apart):
        # Its clients are in its network.
        script = (
            "import sys, time, urllib.request\n"
            "end = time.monotonic() + 240\n"
            "while time.monotonic() < end:\n"
            "    try: urllib.request.urlopen(sys.argv[1], timeout=5).read()\n"
            "    except OSError: time.sleep(0.05)\n"
        )
        target = f"{apart.url}/getid?range=1&mode={MODE}"
        clients = [
            subprocess.Popen([*link.prefix, sys.executable, "-c", script, target])
            for _number in range(8)
        ]
        try:
            longest = interrupt_until_blocked(scenario.service, apart, link.cut, link.mend)
            scenario.load.more_answers(100)
        finally:
            for client in clients:
                client.kill()
                client.wait()
    NOTES.append(
        f"one of 2 services cut off in a transaction, {network}: {longest:.1f} s without answers"
    )
