"""The service behind every cache, and the table of what came through."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import servers

from caches.controls import Controls
from caches.report import Row


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Service]:
    """The service under uWSGI, as shipped."""
    url = f"sqlite:///{tmp_path_factory.mktemp('db')}/db.sqlite3"
    # A regressed counter is how a test makes it answer 503.
    server = servers.Service(url, on_regression="stop")
    with servers.running(server):
        yield server


@pytest.fixture(scope="session")
def controls() -> Iterator[Controls]:
    """The origin whose answers may be kept."""
    with Controls() as origin:
        yield origin


@pytest.fixture
def table(record_property: Callable[[str, object], None]) -> Iterator[list[Row]]:
    """Where a test puts its row."""
    rows: list[Row] = []
    yield rows
    for row in rows:
        record_property("cache", row.cells())
