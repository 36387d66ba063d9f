"""The most telling faults with reserved IDs; `make chaos RESERVE=100` runs all of them so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import servers
import test_faults_database
import test_faults_fence
import test_faults_going_back
import test_faults_service
from fault_proxy import Proxy, commit_answer_is_lost
from test_faults_fence import fence  # noqa: F401
from test_faults_going_back import primary, replica  # noqa: F401

NewURL = Callable[[str], str]


@pytest.fixture(autouse=True)
def _reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAOS_RESERVE", "100")


def test_kill_9_of_the_worker(new_url: NewURL) -> None:
    """What it had reserved is a gap, and nothing else is."""
    test_faults_service.test_kill_9_of_the_worker("sqlite", new_url)


def test_a_stop_and_a_reload_leave_no_gap(fence: Path, new_url: NewURL) -> None:  # noqa: F811
    """Under load, what is left of every mode is given back, and the fence comes down with it."""
    test_faults_service.test_sigterm("mariadb", new_url)
    test_faults_fence.test_a_clean_stop_and_a_reload_leave_no_gap(fence, new_url)


def test_commit_answer_is_lost(hurt_postgresql: servers.PostgreSQL) -> None:
    """What it may have reserved is nobody's."""
    server = hurt_postgresql
    with Proxy(server.port) as proxy:
        url = server.url(server.new_database(), proxy.port)
        test_faults_database.test_connection_cut(
            "postgresql", proxy, url, "COMMIT arrived, answer lost", commit_answer_is_lost, True
        )


def test_failover_to_a_lagging_replica(
    primary: servers.MariaDB,  # noqa: F811
    replica: servers.MariaDB,  # noqa: F811
) -> None:
    """What was reserved on the one is not handed out on the other."""
    test_faults_going_back.test_failover_to_a_lagging_replica(primary, replica)


def test_an_older_copy_takes_the_place_of_the_file(new_url: NewURL) -> None:
    """It is noticed though most requests need no database, and then all are refused."""
    test_faults_going_back.test_sqlite_file_replaced_by_an_older_copy("stop", new_url)


def test_a_backup_is_restored_while_the_service_is_down(
    fence: Path,  # noqa: F811
    new_url: NewURL,
    request: pytest.FixtureRequest,
) -> None:
    """The fence stands above what was reserved."""
    test_faults_fence.test_a_backup_is_restored_while_the_service_is_down(
        "sqlite", "stop", fence, new_url, request
    )
