"""The database and the network to it: killed, stopped, cut, silent, full."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import scenarios
import servers
from fault_proxy import (
    Plan,
    Proxy,
    answer_is_late,
    commit_answer_is_lost,
    commit_never_arrives,
    cut_in_statement,
    is_commit,
)
from fault_scenario import FaultScenario, kill_9
from history import is_503
from load import CLIENTS

Server = servers.MariaDB | servers.PostgreSQL


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy in front of the server."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def url(server: Server, proxy: Proxy) -> str:
    """The URL of an empty database behind the proxy."""
    return server.url(server.new_database(), proxy.port)


def test_kill_9_of_the_database(network: str, server: Server) -> None:
    """The service says 503 while it is away and goes on when it is back."""
    scenarios.kill_9_of_the_database(network, server)


def test_database_stopped_for_longer_than_the_time_out(network: str, server: Server) -> None:
    """Callers get their 503 in time, and the IDs of what the database does later are a gap."""
    scenarios.database_stopped_for_longer_than_the_time_out(network, server)


@pytest.mark.parametrize(
    ("fault", "plan", "ambiguous"),
    [
        ("cut in a statement", cut_in_statement, False),
        ("COMMIT arrived, answer lost", commit_answer_is_lost, True),
        ("COMMIT never arrived", commit_never_arrives, False),
    ],
    ids=["in_statement", "answer_lost", "never_arrived"],
)
def test_connection_cut(
    network: str, proxy: Proxy, url: str, fault: str, plan: Plan, ambiguous: bool
) -> None:
    """The transaction is done again; only a COMMIT that arrived leaves a gap."""
    # With fewer clients there are hardly any COMMITs (test_faults_one_client.py).
    scenario = FaultScenario(fault, network, url, ambiguous=ambiguous, clients=CLIENTS)
    scenarios.cut(scenario, proxy, plan)


def test_all_connections_cut_again_and_again(network: str, proxy: Proxy, url: str) -> None:
    """Cuts at any moment, whatever the connection is used for."""
    scenarios.all_connections_cut_again_and_again(network, proxy, url)


@pytest.mark.parametrize(
    "late", [3.0, 1.9], ids=["later_than_the_driver_waits", "later_than_the_callers_wait"]
)
def test_commit_answer_comes_late(network: str, proxy: Proxy, url: str, late: float) -> None:
    """The COMMIT was done, and its callers had a 503 before that was known: no client has the IDs.

    The time-out is 2 seconds: for a caller since it asked, for the driver since the statement.
    """
    fault = f"answer of COMMIT {late:g} s late"
    with FaultScenario(fault, network, url, ambiguous=True, clients=CLIENTS) as scenario:
        for _time in range(2):
            fired = proxy.fired + 1
            # With the statements before it, both are more than a caller waits.
            proxy.delay("down", 0.1, 0.1)
            proxy.arm(answer_is_late(is_commit, late), 1)
            scenario.load.more(is_503, "a 503")
            servers.wait_until(lambda: proxy.fired >= fired, "the late answer")  # noqa: B023
            proxy.delay("down", 0, 0)
            scenario.load.more_answers(50)
    assert scenario.verdict.gaps > 0


def test_slow_network(network: str, proxy: Proxy, url: str) -> None:
    """50 to 150 ms for each piece in each direction cost time and nothing else."""
    settings = {"request_timeout": "20"}
    modes = ("file", "upload_job")
    with FaultScenario(
        "slow network", network, url, ambiguous=False, modes=modes, settings=settings
    ) as scenario:
        for direction in ("up", "down"):
            proxy.delay(direction, 0.05, 0.15)
        scenario.load.more_answers(64)
        for direction in ("up", "down"):
            proxy.delay(direction, 0, 0)
    assert (scenario.verdict.unanswered, scenario.verdict.gaps) == (0, 0)


def test_network_holds_everything(network: str, proxy: Proxy, url: str) -> None:
    """What is held for longer than the time-out may arrive later, for no client."""
    scenarios.network_holds_everything(network, proxy, url)


def test_connection_falls_silent_for_ever(network: str, proxy: Proxy, url: str) -> None:
    """A connection that stands and never answers is given up, and a new one made."""
    scenarios.connection_falls_silent_for_ever(network, proxy, url)


def test_disk_full_under_sqlite(tmp_path: Path) -> None:
    """No space to commit is a 503; the service recovers when there is space."""
    small = tmp_path / "small"
    small.mkdir()
    as_root = [] if os.getuid() == 0 else ["sudo", "-n"]
    mount = ["mount", "-t", "tmpfs", "-o", f"size=1m,uid={os.getuid()}", "tmpfs", str(small)]
    subprocess.run([*as_root, *mount], check=True)
    try:
        url = f"sqlite:///{small}/db.sqlite3"
        with FaultScenario("disk full", "sqlite", url, ambiguous=True) as scenario:
            filler = small / "filler"
            with pytest.raises(OSError, match="No space"):
                filler.write_bytes(bytes(2**20))
            scenario.load.more(is_503, "a 503")
            filler.unlink()
            scenario.load.more_answers(200)
            scenarios.wait_until_ready(scenario)
    finally:
        subprocess.run([*as_root, "umount", str(small)], check=True)


def test_sigterm_while_the_database_is_away(network: str, server: Server) -> None:
    """The service ends in an orderly way all the same, and serves when both are back."""
    url = server.url(server.new_database())
    with FaultScenario("SIGTERM, database away", network, url, ambiguous=True) as scenario:
        kill_9(server)
        scenario.load.more(is_503, "a 503")
        scenario.service.signal(signal.SIGTERM)
        assert scenario.service.wait() == 0
        server.start()
        scenario.service.start()
        scenario.load.more_answers(100)
