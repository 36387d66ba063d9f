"""Database servers which the fault tests may hurt, and what they have measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import servers
from chaos.report import COLUMNS
from fault_scenario import NOTES, RESULTS

NETWORK = ("mariadb", "mysql", "postgresql")


@pytest.fixture(autouse=True)
def _reported(record_property: Callable[[str, object], None]) -> Iterator[None]:
    """What a test's scenarios have measured goes with the test's report to where it is printed."""
    yield
    for result in RESULTS:
        numbers = {column: getattr(result.verdict, column) for column in COLUMNS}
        record_property("fault", {"fault": result.fault, "database": result.database, **numbers})
    for note in NOTES:
        record_property("fault note", note)
    RESULTS.clear()
    NOTES.clear()


@pytest.fixture(scope="session")
def hurt_mariadb() -> Iterator[servers.MariaDB]:
    """A MariaDB server that is killed and started again; each test leaves it running."""
    with servers.running(servers.MariaDB()) as server:
        yield server


@pytest.fixture(scope="session")
def hurt_mysql() -> Iterator[servers.MySQL]:
    """A MySQL server that is killed and started again; each test leaves it running."""
    with servers.running(servers.MySQL()) as server:
        yield server


@pytest.fixture(scope="session")
def hurt_postgresql() -> Iterator[servers.PostgreSQL]:
    """A PostgreSQL server that is killed and started again; each test leaves it running."""
    with servers.running(servers.PostgreSQL()) as server:
        yield server


@pytest.fixture(params=NETWORK)
def network(request: pytest.FixtureRequest) -> str:
    """Each of the databases that are reached over a network."""
    return str(request.param)


@pytest.fixture
def server(network: str, request: pytest.FixtureRequest) -> servers.MariaDB | servers.PostgreSQL:
    """The server to hurt."""
    return request.getfixturevalue(f"hurt_{network}")


@pytest.fixture
def primary() -> Iterator[servers.MariaDB]:
    """A MariaDB server that others can follow."""
    with servers.running(servers.MariaDB("--server-id=1", "--log-bin=binlog")) as server:
        yield server


@pytest.fixture
def replica() -> Iterator[servers.MariaDB]:
    """A MariaDB server that takes no writes from clients."""
    with servers.running(servers.MariaDB("--server-id=2", "--read-only=1")) as server:
        yield server


@pytest.fixture
def fence(tmp_path: Path) -> Path:
    """The file, in a directory of its own."""
    (tmp_path / "fence").mkdir()
    return tmp_path / "fence" / "fence.json"


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Makes an empty database of a kind; its URL."""

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/db.sqlite3"
        server = request.getfixturevalue(f"hurt_{kind}")
        return str(server.url(server.new_database()))

    return make


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Repeat the scenarios for CHAOS_MINUTES, where that is set; the first failure ends it."""
    minutes = float(os.environ.get("CHAOS_MINUTES", "0"))
    if not minutes or session.testsfailed or session.config.option.collectonly:
        return None
    end = time.monotonic() + 60 * minutes
    items = session.items
    position = 0
    last = not items
    while not last:
        last = time.monotonic() >= end
        item = items[position % len(items)]
        position += 1
        # One that follows itself would not be torn down in between.
        alone = last or len(items) == 1
        following = None if alone else items[position % len(items)]
        # Else it would be told again of its earlier runs.
        item.user_properties.clear()
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            raise session.Failed("a fault test failed")
    return True
