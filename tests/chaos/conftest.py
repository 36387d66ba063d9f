"""Database servers which the fault tests may hurt, and the report at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import servers
from cell import NOTES, RESULTS

NETWORK = ("mariadb", "postgresql")


@pytest.fixture(scope="session")
def hurt_mariadb() -> Iterator[servers.MariaDB]:
    """A MariaDB server that is killed and started again; each test leaves it running."""
    with servers.running(servers.MariaDB()) as server:
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
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Makes an empty database of a kind; its URL."""

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/db.sqlite3"
        server = request.getfixturevalue(f"hurt_{kind}")
        return str(server.url(server.new_database()))

    return make


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Repeat the cells for CHAOS_MINUTES, where that is set; the first failure ends it."""
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
        following = None if last else items[position % len(items)]
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            raise session.Failed("a fault test failed")
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the clients saw in each cell; repeated cells are added up."""
    if not RESULTS and not NOTES:
        return
    terminalreporter.section("the same ID twice?")
    for note in NOTES:
        terminalreporter.write_line(note)
    if not RESULTS:
        return
    columns = ("calls", "answers", "unanswered", "refused", "gaps", "duplicates")
    rows: dict[tuple[str, str], dict[str, int]] = {}
    for result in RESULTS:
        row = rows.setdefault((result.fault, result.database), dict.fromkeys(columns, 0))
        for column in columns:
            row[column] += getattr(result.verdict, column)
    width = max(len(fault) for fault, _database in rows)
    heads = "".join(f"{column:>12}" for column in columns)
    terminalreporter.write_line(f"{'fault':{width}}  {'database':10}{heads}")
    for (fault, database), row in rows.items():
        numbers = "".join(f"{row[column]:>12}" for column in columns)
        terminalreporter.write_line(f"{fault:{width}}  {database:10}{numbers}")
    totals = {column: sum(row[column] for row in rows.values()) for column in columns}
    numbers = "".join(f"{totals[column]:>12}" for column in columns)
    terminalreporter.write_line(
        f"{f'{len(RESULTS)} runs of {len(rows)} cells':{width}}  {'':10}{numbers}"
    )
