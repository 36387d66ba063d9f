"""The most telling faults with one client; `make chaos CLIENTS=1` runs all of them so.

The counter of an uncontended request is advanced in the thread of that request, by an UPDATE that
the database commits automatically. A scenario with one client fails when its load does not go that
way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import scenarios
import servers
from fault_proxy import (
    Plan,
    Proxy,
    answer_is_late,
    answer_is_lost,
    commits_itself,
    cut_in_the_middle,
    never_arrives,
)
from fault_scenario import FaultScenario
from history import is_503

NewURL = Callable[[str], str]


@pytest.fixture(autouse=True)
def _one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAOS_CLIENTS", "1")


@contextmanager
def behind_a_proxy(server: servers.MariaDB | servers.PostgreSQL) -> Iterator[tuple[Proxy, str]]:
    """A proxy in front of a server, and the URL of an empty database by that way."""
    with Proxy(server.port) as proxy:
        yield proxy, server.url(server.new_database(), proxy.port)


@pytest.mark.parametrize(
    ("fault", "plan", "ambiguous"),
    [
        ("cut in a single UPDATE", cut_in_the_middle(commits_itself), False),
        ("single UPDATE never arrived", never_arrives(commits_itself), False),
        ("single UPDATE arrived, answer lost", answer_is_lost(commits_itself), True),
    ],
    ids=["in_statement", "never_arrived", "answer_lost"],
)
def test_connection_cut_around_a_single_update(
    network: str, server: scenarios.Server, fault: str, plan: Plan, ambiguous: bool
) -> None:
    """It is done again; only one that arrived leaves a gap."""
    with behind_a_proxy(server) as (proxy, url):
        scenarios.cut(FaultScenario(fault, network, url, ambiguous=ambiguous), proxy, plan)


@pytest.mark.parametrize(
    "late", [3.0, 1.9], ids=["later_than_the_driver_waits", "when_the_driver_gives_up"]
)
def test_answer_of_a_single_update_comes_late(
    network: str, server: scenarios.Server, late: float
) -> None:
    """An answer in time is the caller's; a later one is allocated to no client.

    The driver waits for 2 seconds, and the caller with it.
    """
    fault = f"answer of single UPDATE {late:g} s late"
    # A caller that waits in vain has a 503: nothing is retried.
    with (
        behind_a_proxy(server) as (proxy, url),
        FaultScenario(fault, network, url, ambiguous=False) as scenario,
    ):
        # With 1.9 s more the driver's time-out: either may be first.
        proxy.delay("down", 0.1, 0.1)
        proxy.arm(answer_is_late(commits_itself, late), 1)
        if late > 2:
            scenario.load.more(is_503, "a 503")
        servers.wait_until(lambda: proxy.fired, "the late answer")
        proxy.delay("down", 0, 0)
        scenario.load.more_answers(50)
    if late > 2:
        assert scenario.verdict.gaps > 0


def test_kill_9_of_the_database(hurt_postgresql: servers.PostgreSQL) -> None:
    """Whatever became of the UPDATE on its way, its IDs are not allocated twice."""
    scenarios.kill_9_of_the_database("postgresql", hurt_postgresql)


def test_database_stopped_for_longer_than_the_time_out(hurt_mariadb: servers.MariaDB) -> None:
    """The caller gets its 503 in time, others at once, and what the database does afterwards
    is allocated to no client."""
    scenarios.database_stopped_for_longer_than_the_time_out("mariadb", hurt_mariadb)


def test_all_connections_cut_again_and_again(hurt_mariadb: servers.MariaDB) -> None:
    """Before, in and after the UPDATE."""
    with behind_a_proxy(hurt_mariadb) as (proxy, url):
        scenarios.all_connections_cut_again_and_again("mariadb", proxy, url)


def test_network_holds_everything(hurt_postgresql: servers.PostgreSQL) -> None:
    """An UPDATE that arrives when its caller has had its 503 advances the counter for no client."""
    with behind_a_proxy(hurt_postgresql) as (proxy, url):
        scenarios.network_holds_everything("postgresql", proxy, url)


def test_connection_falls_silent_for_ever(hurt_mariadb: servers.MariaDB) -> None:
    """It is given up by the one who is alone, and by the committer that looks after it."""
    with behind_a_proxy(hurt_mariadb) as (proxy, url):
        scenarios.connection_falls_silent_for_ever("mariadb", proxy, url)


@pytest.mark.parametrize("clients", [1, 2, 4])
def test_sigterm(clients: int, new_url: NewURL) -> None:
    """It ends with 0 again and again, whichever thread is at work; what was committed was answered,
    and no request is refused."""
    fault = "SIGTERM" if clients == 1 else "SIGTERM, few clients"
    scenario = FaultScenario(fault, "sqlite", new_url("sqlite"), ambiguous=False, clients=clients)
    scenarios.end_and_start(scenario, times=2)
    assert {call.status for call in scenario.load.history.calls} == {None}


def test_two_services_contend_with_one_client_each(network: str, new_url: NewURL) -> None:
    """Each takes the counters for its own until it finds that they were moved; one is killed."""
    fault = "2 services, one killed"
    scenarios.share(FaultScenario(fault, network, new_url(network), ambiguous=False, processes=2))


def test_kill_9_of_the_worker(new_url: NewURL) -> None:
    """What it had committed without answering is a gap, and nothing else is."""
    scenarios.kill_9_of_the_worker("sqlite", new_url)


def test_failover_to_a_lagging_replica(
    primary: servers.MariaDB,
    replica: servers.MariaDB,
) -> None:
    """What one server has allocated, the other does not allocate."""
    scenarios.failover_to_a_lagging_replica(primary, replica)


def test_an_older_copy_takes_the_place_of_the_file(new_url: NewURL) -> None:
    """The thread of an uncontended request notices it."""
    scenarios.sqlite_file_replaced_by_an_older_copy("advance", new_url)


def test_a_backup_is_restored_while_the_service_is_down(
    fence: Path,
    new_url: NewURL,
    request: pytest.FixtureRequest,
) -> None:
    """The fence stands above what single statements took without its being written for each."""
    scenarios.a_backup_is_restored_while_the_service_is_down(
        "sqlite", "stop", fence, new_url, request
    )
