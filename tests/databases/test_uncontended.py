"""A counter that is advanced in a session of a single statement, which the database commits."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import servers
from pony.orm import db_session

from uniqueid.database.errors import Cause
from uniqueid.errors import (
    MAX_ID,
    CounterExhausted,
    DatabaseUnavailable,
    ModeBusy,
    UniqueIDError,
)
from uniqueid.fence.file import read
from uniqueid.fence.store import FencedStore
from uniqueid.model import CounterUpdate

from .direct import Direct, kill_sessions, round_trips
from .records import entry, record


@pytest.fixture
def ready(direct: Direct) -> Direct:
    """A store whose counter `file` is at 11, and which moves it on by single statements."""
    for first in (1, 3, 5, 7, 9):
        assert direct.first("file", 2, file=first) == first
    return direct


def alone(direct: Direct, mode: str, count: int, **floors: int) -> int:
    """The first of the new IDs, as the thread of a request gets them: in one attempt."""
    outcome = direct.advance({mode: count}, floors, deadline=time.monotonic())[mode]
    if isinstance(outcome, UniqueIDError):
        raise outcome
    return outcome.first


def end_after_the_statement(
    direct: Direct, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Raise an error when the database has done the next statement, in the place of its answer."""
    provider = direct.store.database.provider
    execute = provider.execute

    def raise_after(cursor: Any, sql: str, *arguments: Any) -> Any:
        execute(cursor, sql, *arguments)
        monkeypatch.setattr(provider, "execute", execute)
        raise error

    monkeypatch.setattr(provider, "execute", raise_after)


def test_it_is_one_round_trip(ready: Direct, kind: str) -> None:
    """No BEGIN, no COMMIT, no SELECT; whether the committer does it or a caller."""
    with round_trips(ready, kind) as sent:
        assert alone(ready, "file", 5, file=11) == 11
        assert ready.first("file", 1, file=16) == 16
        assert alone(ready, "file", 1, file=17) == 17
    assert len(sent) == 3
    assert kind == "postgresql" or all(sql.startswith("UPDATE") for sql in sent)
    assert ready.store.counters() == {"file": 18}


def test_what_a_transaction_costs_otherwise(
    direct: Direct, make_store: Callable[..., Direct], kind: str
) -> None:
    """As docs/performance.md has it: several counters together, and one that others move too."""
    direct.advance({"a": 1, "b": 1})
    with round_trips(direct, kind) as sent:
        direct.advance({"a": 1, "b": 2}, {"a": 2, "b": 2})
    # MySQL's session has another time-out for the length of a transaction.
    assert len(sent) == {"sqlite": 3, "mariadb": 2, "mysql": 4, "postgresql": 3}[kind]
    other = make_store()
    for first in (3, 5):
        assert other.first("a") == first
        with round_trips(direct, kind) as sent:
            assert direct.first("a", 1, a=first) == first + 1
    assert len(sent) == {"sqlite": 4, "mariadb": 3, "mysql": 5, "postgresql": 4}[kind]


def test_it_is_committed_when_it_is_answered(
    ready: Direct, make_store: Callable[..., Direct]
) -> None:
    """Another session sees it, and the store that did it has nothing open."""
    assert alone(ready, "file", 5) == 11
    assert make_store().store.counters() == {"file": 16}


@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
def test_it_is_serializable(ready: Direct, kind: str) -> None:
    """As every transaction; what only reads all the counters is not."""
    assert alone(ready, "file", 1) == 11
    with ready.store.database.provider.pool.con.cursor() as cursor:
        cursor.execute(
            f"SELECT {servers.ISOLATION[kind]},"
            f" {'1' if kind == 'postgresql' else '@@session.autocommit'}"
        )
        level, autocommit = cursor.fetchone()
    assert (level.lower(), autocommit) == ("serializable", 1)
    with db_session:
        (level,) = ready.store.database.select(f"SELECT {servers.ISOLATION[kind]}", {}, {})
    # MariaDB's session is as it was: a reader's transaction says READ COMMITTED for itself.
    assert level.lower() == (
        "serializable" if servers.sql_of(kind) == "mariadb" else "read committed"
    )


def test_any_thread_does_it_on_the_one_connection(ready: Direct) -> None:
    """And no thread has a connection of its own."""
    before = ready.store.connections
    with ThreadPoolExecutor(1) as pool:
        for first in (11, 13, 15):
            assert pool.submit(alone, ready, "file", 1).result(30) == first
            assert ready.first("file", 1, file=first + 1) == first + 1
    assert ready.store.connections == before


def test_a_counter_that_is_elsewhere_is_read(
    ready: Direct, make_store: Callable[..., Direct]
) -> None:
    """In the same attempt: the single statement wrote nothing, and there is no gap."""
    assert make_store().first("file", 5) == 11
    assert alone(ready, "file", 1, file=11) == 16
    assert ready.store.counters() == {"file": 17}


def test_what_a_single_statement_cannot_do_is_a_transaction_of_the_same_attempt(
    ready: Direct,
) -> None:
    """A new mode, a mark above the counter, an exhausted counter, a request for nothing."""
    assert alone(ready, "new", 1) == 1
    assert alone(ready, "file", 1, file=12) == 12
    with pytest.raises(CounterExhausted):
        alone(ready, "file", MAX_ID)
    assert alone(ready, "file", 0) == 13
    assert ready.store.counters() == {"file": 13, "new": 2}


def test_an_attempt_opens_a_session_where_there_is_none(
    make_store: Callable[..., Direct],
) -> None:
    """And counts it: it may lead to another server."""
    direct = make_store()
    for first in (1, 2, 3, 4, 5):
        assert direct.first("file", 1, file=first) == first
    assert alone(make_store(), "file", 1) == 6
    connections = direct.store.connections
    direct.store.disconnect()
    assert alone(direct, "file", 1, file=6) == 7
    assert direct.store.connections == connections + 1


@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
def test_one_attempt_does_not_outlive_its_session(
    ready: Direct, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not repeated on another, without a deadline for that."""
    retried: list[Cause] = []
    monkeypatch.setattr(ready.store._retry, "on_retry", retried.append)
    kill_sessions(ready, kind, request)
    before = ready.store.connections
    with pytest.raises(DatabaseUnavailable):
        alone(ready, "file", 1)
    # The committer's next attempt is the retry.
    assert retried == [Cause.CONNECTION]
    assert ready.store.connections == before
    assert alone(ready, "file", 1, file=11) == 11
    assert ready.store.connections == before + 1


@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
def test_advance_repeats_what_a_lost_session_did_not_do(
    ready: Direct, kind: str, request: pytest.FixtureRequest
) -> None:
    """On a new session, where the counter is read."""
    kill_sessions(ready, kind, request)
    assert ready.first("file", 1, file=11) == 11


@pytest.mark.parametrize("by_caller", [True, False], ids=["of a caller", "of the committer"])
@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
def test_an_answer_that_is_lost_is_a_gap(
    ready: Direct, by_caller: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The UPDATE was done, and its answer lost: the next range is above it."""
    end_after_the_statement(ready, monkeypatch, ConnectionResetError())
    if by_caller:
        with pytest.raises(DatabaseUnavailable):
            alone(ready, "file", 5)
        assert ready.first("file", 1, file=11) == 16
    else:
        assert ready.first("file", 5, file=11) == 16


@pytest.mark.parametrize("single", [True, False], ids=["single statement", "transaction"])
def test_a_thread_that_is_ended_leaves_no_response_to_the_next(
    ready: Direct, single: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection in the middle of a statement is closed; a committed range is a gap."""
    pool = ready.store.database.provider.pool
    connection = pool.con
    end_after_the_statement(ready, monkeypatch, SystemExit())
    totals = {"file": 5} if single else {"file": 5, "other": 1}
    with pytest.raises(SystemExit):
        ready.advance(totals, {"file": 11, "other": 2})
    assert pool.con is None
    assert ready.first("file", 1, file=11) == (16 if single else 11)
    assert pool.con is not connection


@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
def test_a_locked_counter_is_busy_after_one_wait(
    ready: Direct, kind: str, make_store: Callable[..., Direct]
) -> None:
    """Not once more in a transaction: others would wait for that as well."""
    other = make_store()
    other.store.open()
    retried: list[Cause] = []
    ready.store._retry.on_retry = retried.append
    connection = other.store.database.provider.connect()[0]
    if servers.sql_of(kind) == "mariadb":
        connection.autocommit(False)
    cursor = connection.cursor()
    select = other.store._counters._statements.select
    cursor.execute(select.replace("$mode", "'file'"))
    with round_trips(ready, kind) as sent:
        assert isinstance(ready.advance({"file": 1}, {"file": 11})["file"], ModeBusy)
    assert len(sent) == 1
    assert retried == [Cause.LOCK_TIMEOUT]
    connection.rollback()
    assert ready.first("file", 1, file=11) == 11


@pytest.mark.parametrize("kind", ["mariadb"])
def test_a_session_is_not_changed_for_a_few_statements(direct: Direct, kind: str) -> None:
    """To switch automatic commit on or off takes a round trip: it has to pay."""
    direct.advance({"a": 1, "b": 1})
    floors = {"a": 2, "b": 2}
    with round_trips(direct, kind) as sent:
        for _time in range(3):
            for mode in "ab":
                floors[mode] = direct.first(mode, 1, **floors) + 1
            direct.advance({"a": 1, "b": 1}, floors)
            floors = {mode: floor + 1 for mode, floor in floors.items()}
    assert [sql.split()[0] for sql in sent] == ["UPDATE", "COMMIT"] * 9
    direct.store.need_journal()
    with round_trips(direct, kind) as sent:
        for number in range(6):
            floors["a"] = direct.first("a", 1, **floors) + 1
            record(direct, entry("a", 1, f"key {number}"), floors=floors)
            floors["a"] += 1
    assert not any(sql.startswith("SET") for sql in sent)
    with round_trips(direct, kind) as sent:
        for _time in range(6):
            floors["a"] = direct.first("a", 1, **floors) + 1
        direct.advance({"a": 1, "b": 1}, floors)
    words = [sql if sql.startswith("SET") else sql.split()[0] for sql in sent]
    changed = ["SET AUTOCOMMIT = 1", *["UPDATE"] * 3, "SET AUTOCOMMIT = 0"]
    assert words == [*["UPDATE", "COMMIT"] * 3, *changed, "UPDATE", "COMMIT"]


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_file_that_was_replaced_is_not_written_unseen(ready: Direct, tmp_path: Path) -> None:
    """The next call opens it, and the number of connections tells that it has to be looked at."""
    path = ready.store.url.database
    ready.store.disconnect()
    shutil.copy(path, tmp_path / "copy")
    assert ready.first("file", 1, file=11) == 11
    before = ready.store.connections
    os.replace(tmp_path / "copy", path)
    assert alone(ready, "file", 1, file=12) == 12
    assert ready.store.connections == before + 1


# -- behind the fence -----------------------------------------------------------------------------


@pytest.fixture
def fenced(direct: Direct, tmp_path: Path) -> Iterator[FencedStore]:
    """A fence with a window of 100, and `file` at 6 behind it."""
    fenced = FencedStore(direct.store, str(tmp_path / "fence"), window=100)
    for first in (1, 2, 3, 4, 5):
        outcome = fenced.advance({"file": 1}, {}, deadline=time.monotonic() + 30)["file"]
        assert isinstance(outcome, CounterUpdate)
        assert outcome.first == first
    yield fenced
    fenced.disconnect()


def fenced_alone(fenced: FencedStore, mode: str, count: int) -> int:
    """The same as `alone`, through the fence."""
    outcome = fenced.advance({mode: count}, {}, deadline=time.monotonic())[mode]
    assert isinstance(outcome, CounterUpdate)
    return outcome.first


def test_the_fence_is_above_what_one_attempt_allocates(
    fenced: FencedStore, direct: Direct, tmp_path: Path
) -> None:
    """Within the window, across its end, and for a new mode."""
    assert fenced_alone(fenced, "file", 50) == 6
    assert dict(fenced.high_water_marks) == {"file": 56}
    assert fenced_alone(fenced, "file", 50) == 56
    assert read(str(tmp_path / "fence"))["file"].limit >= 106
    assert fenced_alone(fenced, "other", 1) == 1
    assert read(str(tmp_path / "fence"))["other"].limit >= 2
    assert direct.store.counters() == {"file": 106, "other": 2}


def test_a_fence_that_is_lost_or_closed_is_there_again_before_an_attempt(
    fenced: FencedStore, direct: Direct, tmp_path: Path
) -> None:
    """A file that was removed, a lock that was released."""
    (tmp_path / "fence").unlink()
    assert fenced_alone(fenced, "file", 1) == 6
    assert read(str(tmp_path / "fence"))["file"].limit >= 7
    fenced.disconnect()
    assert fenced_alone(fenced, "file", 1) == 7
    assert direct.store.counters() == {"file": 8}


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_counter_above_its_mark_is_no_way_around_the_fence(
    fenced: FencedStore, direct: Direct, tmp_path: Path
) -> None:
    """What an operator has advanced beyond the fence is fenced before it is returned."""
    direct.advance({"file": 0}, {"file": 500})
    assert fenced_alone(fenced, "file", 1) == 500
    assert read(str(tmp_path / "fence"))["file"].limit >= 501
