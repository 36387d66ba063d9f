"""Stores on each of the databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import servers

from uniqueid.database import schema

from .direct import Direct


@pytest.fixture
def make_store(database_url: str) -> Iterator[Callable[..., Direct]]:
    """Makes stores on one database, as several replicas do."""
    made: list[Direct] = []

    def make(**options: Any) -> Direct:
        direct = Direct(database_url, **options)
        if not made:
            schema.sync(direct.store)
        made.append(direct)
        return direct

    yield make
    for direct in made:
        direct.store.disconnect()


@pytest.fixture
def direct(make_store: Callable[..., Direct]) -> Direct:
    return make_store()


@pytest.fixture
def bare(database_url: str) -> Iterator[Direct]:
    """A database without tables."""
    direct = Direct(database_url)
    yield direct
    direct.store.disconnect()


@pytest.fixture
def database_server(kind: str, request: pytest.FixtureRequest) -> servers.MariaDB:
    """The server of a kind."""
    server: servers.MariaDB = request.getfixturevalue(kind)
    return server
