"""The faults that are most telling both with reserved IDs and with one client.

What was reserved, and what single statements took in the callers' threads, is covered as all else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import servers
import test_faults_fence
import test_faults_going_back
import test_faults_service
from test_faults_fence import fence  # noqa: F401
from test_faults_going_back import primary, replica  # noqa: F401

NewURL = Callable[[str], str]

WAYS = {
    "reserved_ids": {"CHAOS_RESERVE": "100"},
    # What is reserved is handed out without a statement.
    "one_client": {"CHAOS_CLIENTS": "1", "CHAOS_RESERVE": "0"},
}
"""How the services are used, by the environment of the cells."""


@pytest.fixture(params=WAYS, autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the ways."""
    for name, value in WAYS[request.param].items():
        monkeypatch.setenv(name, value)
    return str(request.param)


def test_kill_9_of_the_worker(new_url: NewURL) -> None:
    """What it had reserved, or committed without answering, is a gap, and nothing else is."""
    test_faults_service.test_kill_9_of_the_worker("sqlite", new_url)


def test_failover_to_a_lagging_replica(
    primary: servers.MariaDB,  # noqa: F811
    replica: servers.MariaDB,  # noqa: F811
) -> None:
    """What the one has handed out or reserved, the other does not hand out."""
    test_faults_going_back.test_failover_to_a_lagging_replica(primary, replica)


@pytest.mark.parametrize(
    ("way", "policy"), [("reserved_ids", "stop"), ("one_client", "advance")], indirect=["way"]
)
def test_an_older_copy_takes_the_place_of_the_file(policy: str, new_url: NewURL) -> None:
    """It is noticed though most requests need no database, or by whoever is alone; under `stop`
    all are refused then."""
    test_faults_going_back.test_sqlite_file_replaced_by_an_older_copy(policy, new_url)


def test_a_backup_is_restored_while_the_service_is_down(
    fence: Path,  # noqa: F811
    new_url: NewURL,
    request: pytest.FixtureRequest,
) -> None:
    """The fence stands above what was reserved, and above what single statements took without its
    being written for each."""
    test_faults_fence.test_a_backup_is_restored_while_the_service_is_down(
        "sqlite", "stop", fence, new_url, request
    )
