"""Stores on each of the databases."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from uniqueid.database import schema
from uniqueid.database.store import Outcome, Store
from uniqueid.database.url import parse


class Direct:
    """A synced store and short ways to use it."""

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self.store = Store(parse(url, "url", "test"), create=True, **options)

    def advance(
        self, totals: dict[str, int], floors: dict[str, int] | None = None, **options: Any
    ) -> dict[str, Outcome]:
        options.setdefault("deadline", time.monotonic() + 30)
        return self.store.advance(totals, floors or {}, **options)

    def first(self, mode: str, count: int = 1, **floors: int) -> int:
        """Advance one mode, which must work; the first ID."""
        outcome = self.advance({mode: count}, floors)[mode]
        assert not isinstance(outcome, Exception), outcome
        return outcome.first


@pytest.fixture
def make_store(database_url: str) -> Iterator[Callable[..., Direct]]:
    """Makes stores on one database, as so many replicas."""
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
