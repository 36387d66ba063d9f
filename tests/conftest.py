"""Fixtures for all tests; what starts a server is made only where it is used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import reports
import servers
import suites
from real import proxy, service

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

__all__ = ["proxy", "service"]

KINDS = ("sqlite", "mariadb", "mysql", "postgresql")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The suites of `make check`, `make test` and `make test-all`."""
    parser.addoption("--suite", choices=suites.SUITES, help="run this suite (tests/suites.py)")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what the suite does not need."""
    return True if suites.is_ignored(collection_path, config) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The tests of the suite, in the order of each of several processes."""
    suites.select(config, items)
    if hasattr(config, "workerinput"):
        import side_by_side

        items.sort(key=side_by_side.order)


# Other Pythons run the tests that take seconds, without pytest-xdist.
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """What the processes are given to do."""
    import side_by_side

    return side_by_side.Groups(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured, before pytest's own last line."""
    reports.summarise(terminalreporter)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads the settings of the machine it runs on."""
    for name in list(os.environ):
        if name.startswith(("UNIQUEID_", "PEEWEE_", "DATABASE_CONNECT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[servers.MariaDB]:
    """A MariaDB server for all tests that do not hurt it."""
    server = servers.MariaDB()
    with servers.running(server):
        yield server
        # An orderly end takes seconds.
        server.abort()


@pytest.fixture(scope="session")
def mysql() -> Iterator[servers.MySQL]:
    """A MySQL server for all tests that do not hurt it."""
    # Or a user of a server with a binary log may not create the triggers of some tests.
    server = servers.MySQL("--log-bin-trust-function-creators=1")
    with servers.running(server):
        yield server
        # An orderly end takes seconds.
        server.abort()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[servers.PostgreSQL]:
    """A PostgreSQL server for all tests that do not hurt it."""
    server = servers.PostgreSQL()
    with servers.running(server):
        yield server
        # An orderly end takes seconds.
        server.abort()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each of the databases in turn."""
    return str(request.param)


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Makes an empty database of a kind; its URL."""

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/db-{os.urandom(4).hex()}.sqlite3"
        server = request.getfixturevalue(kind)
        return str(server.url(server.new_database()))

    return make


@pytest.fixture
def database_url(kind: str, new_url: Callable[[str], str]) -> str:
    """The URL of an empty database of each kind."""
    return new_url(kind)
