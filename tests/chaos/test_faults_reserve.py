"""The most telling faults with reserved IDs; `make chaos RESERVE=100` runs all of them so.

test_faults_otherwise.py has more of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import servers
import test_faults_database
import test_faults_fence
import test_faults_service
from fault_proxy import Proxy, commit_answer_is_lost
from test_faults_fence import fence  # noqa: F401

NewURL = Callable[[str], str]


@pytest.fixture(autouse=True)
def _reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAOS_RESERVE", "100")


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
