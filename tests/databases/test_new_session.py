"""Invariant: after a new database session all counters are compared before a request completes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from uniqueid.allocation.allocator import Allocator
from uniqueid.errors import CounterRegressed
from uniqueid.fence.store import FencedStore

from .direct import Direct, kill_sessions, lower, run_sql
from .records import entry

Replace = Callable[..., None]


@pytest.fixture
def operator(make_store: Callable[..., Direct]) -> Direct:
    return make_store()


@pytest.fixture
def replace_session(
    direct: Direct, operator: Direct, kind: str, request: pytest.FixtureRequest
) -> Replace:
    """End the session of the service and set counters back, as a failover to a replica does."""

    def replace(**counters: int) -> None:
        kill_sessions(direct, kind, request)
        if kind == "sqlite":
            direct.store.disconnect()
        operator.store.disconnect()
        for mode, next_id in counters.items():
            if next_id == 1:
                run_sql(operator, f"DELETE FROM uniqueindex WHERE id = '{mode}'")
            else:
                lower(operator, mode, next_id)

    return replace


def allocators(direct: Direct, tmp_path: Path, fenced: bool, repair: bool) -> Iterator[Allocator]:
    store = FencedStore(direct.store, str(tmp_path / "fence")) if fenced else direct.store
    allocator = Allocator(store, request_timeout=30, repair=repair)
    yield allocator
    assert allocator.close(30)


@pytest.fixture(params=[False, True], ids=["", "fence"])
def fenced(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def advancing(direct: Direct, tmp_path: Path, fenced: bool) -> Iterator[Allocator]:
    yield from allocators(direct, tmp_path, fenced, repair=True)


@pytest.fixture
def stopping(direct: Direct, tmp_path: Path, fenced: bool) -> Iterator[Allocator]:
    yield from allocators(direct, tmp_path, fenced, repair=False)


def use(allocator: Allocator) -> None:
    """Leave `file` at 101, `gone` at 31 and `other` where a lone caller is served directly."""
    allocator.allocate("file", 100)
    allocator.allocate("gone", 30)
    for _ in range(6):
        allocator.allocate("other", 1)


@pytest.mark.parametrize("key", [None, "key of another"], ids=["", "key"])
def test_counters_are_raised_before_a_request_for_another_mode_completes(
    advancing: Allocator, operator: Direct, replace_session: Replace, key: str | None
) -> None:
    """on_regression = advance."""
    use(advancing)
    replace_session(file=7, gone=1)
    assert advancing.allocate("other", 1, entry("other", 1, key) if key else None).first == 7
    assert operator.store.counters() == {"file": 101, "gone": 31, "other": 8}
    assert advancing.allocate("gone", 1).first == 31


@pytest.mark.parametrize("key", [None, "key of another"], ids=["", "key"])
def test_no_request_for_another_mode_completes_under_stop(
    stopping: Allocator, operator: Direct, replace_session: Replace, key: str | None
) -> None:
    """Another service may have allocated from `other`: its counter is as old as `file`."""
    use(stopping)
    replace_session(file=7)
    with pytest.raises(CounterRegressed, match=r"mode 'file'.*advance it to 101"):
        stopping.allocate("other", 1, entry("other", 1, key) if key else None)
    assert operator.store.counters()["file"] == 7
    operator.advance({"file": 0}, {"file": 101})
    deadline = time.monotonic() + 30
    while stopping.regressed:
        assert time.monotonic() < deadline
    assert stopping.allocate("file", 1).first == 101


@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
def test_a_session_that_is_replaced_within_a_retry_is_compared(
    stopping: Allocator,
    direct: Direct,
    replace_session: Replace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first attempt of the transaction fails with its session, the second one commits."""
    use(stopping)
    attempt = direct.store._attempt
    attempts: list[None] = []

    def once(*arguments: Any) -> object:
        attempts.append(None)
        if len(attempts) == 1:
            replace_session(file=7)
        return attempt(*arguments)

    monkeypatch.setattr(direct.store, "_attempt", once)
    with pytest.raises(CounterRegressed, match="mode 'file'"):
        # A new mode: its row is read, so that it takes a transaction.
        stopping.allocate("new", 1)
    assert len(attempts) == 2
