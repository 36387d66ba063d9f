"""The service behind every cache, and the table of what came through."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import servers

from caches.controls import Controls
from caches.report import HEADINGS, Row

TABLE: pytest.StashKey[list[Row]] = pytest.StashKey()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Service]:
    """The service under uWSGI, as shipped."""
    url = f"sqlite:///{tmp_path_factory.mktemp('db')}/db.sqlite3"
    # A counter that went back is how a test makes it answer 503.
    server = servers.Service(url, on_regression="stop")
    with servers.running(server):
        yield server


@pytest.fixture(scope="session")
def controls() -> Iterator[Controls]:
    """The origin whose answers may be kept."""
    with Controls() as origin:
        yield origin


@pytest.fixture
def table(request: pytest.FixtureRequest) -> list[Row]:
    """Where a test puts its row."""
    return request.config.stash.setdefault(TABLE, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured, before pytest's own last line."""
    rows = terminalreporter.config.stash.get(TABLE, [])
    if not rows:
        return
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEADINGS))]
    terminalreporter.section("answers used twice, of 20 + 20 identical requests")
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        terminalreporter.write_line(" | ".join(cells).rstrip())
