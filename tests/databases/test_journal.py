"""Exactly once and provenance on SQLite, MariaDB and PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import servers
from chaos.fault_proxy import Proxy, commit_answer_is_lost, commit_never_arrives
from pony.orm import db_session

from uniqueid.allocation.allocator import Allocator
from uniqueid.database import schema
from uniqueid.database.errors import Cause
from uniqueid.database.journal import PRUNE_STEP, RecordedRange
from uniqueid.errors import (
    MAX_ID,
    CounterExhausted,
    CounterRegressed,
    DatabaseUnavailable,
    JournalMissing,
    KeyReused,
    ModeBusy,
    TooManyModes,
)
from uniqueid.fence.store import FencedStore
from uniqueid.model import AllocationRecord, now

from .direct import Direct, apart
from .records import entry, placed, record


def rows(direct: Direct, **bounds: Any) -> list[tuple[str | None, str, int, int, int]]:
    direct.store.need_journal()
    return [
        (one.key, one.mode, one.first, one.last, one.replays)
        for one in direct.store.journal.rows(**bounds)
    ]


def statements(direct: Direct, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that Pony or the journal sends from now on."""
    seen: list[str] = []
    provider = direct.store.database.provider
    original = provider.execute

    def execute(cursor: Any, sql: str, *arguments: Any, **options: Any) -> Any:
        seen.append(sql)
        return original(cursor, sql, *arguments, **options)

    monkeypatch.setattr(provider, "execute", execute)
    insert = direct.store.journal.insert

    def note(added: Any) -> None:
        seen.append("INSERT journal")
        insert(added)

    monkeypatch.setattr(direct.store.journal, "insert", note)
    return seen


# -- exactly once ------------------------------------------------------------------------------


def test_a_key_gets_its_range_again(direct: Direct) -> None:
    """However often it is asked for, and whatever else is allocated in between."""
    assert placed(direct, entry("file", 10, "one")) == RecordedRange(1)
    assert direct.first("file", 5) == 11
    for times in (1, 2):
        assert placed(direct, entry("file", 10, "one")) == RecordedRange(1, replayed=True)
        assert rows(direct) == [("one.............", "file", 1, 10, times)]
    assert direct.store.counters() == {"file": 16}


def test_a_key_counts_within_its_caller_exactly(direct: Direct) -> None:
    """Case, blanks at the end and quotes make another key, and another caller another one too."""
    keys = ["a key of length", "A key of length", "a key of length ", "'; DROP TABLE x", '%s$x\\"`']
    firsts = [placed(direct, entry("file", 1, key.ljust(16, "_"))).first for key in keys]
    assert firsts == [1, 2, 3, 4, 5]
    blank = [
        AllocationRecord("file", 1, "trailing blanks" + end, expires=now())
        for end in ("", " ", "  ")
    ]
    assert [placed(direct, one).first for one in blank] == [6, 7, 8]
    assert placed(direct, entry("file", 1, keys[0].ljust(16, "_"), caller="ingest")).first == 9
    again = [placed(direct, entry("file", 1, key.ljust(16, "_"))) for key in keys]
    assert again == [RecordedRange(first, True) for first in firsts]


def test_another_request_with_a_key_is_refused_and_takes_nothing(direct: Direct) -> None:
    """Another range, or another mode, which is not even made."""
    placed(direct, entry("file", 10, "one"))
    for other in (entry("file", 9, "one"), entry("new", 10, "one")):
        (refused,) = record(direct, other)[other.mode].records
        assert isinstance(refused, KeyReused)
        assert (refused.mode, refused.count) == ("file", 10)
    assert direct.store.counters() == {"file": 11}


def test_one_transaction_may_hold_everything_at_once(direct: Direct) -> None:
    """Requests without entries, new keys, replays, the same key twice, reused keys."""
    placed(direct, entry("a", 10, "old"))
    entries = [
        entry("a", 3, "new"),
        entry("a", 10, "old"),
        entry("a", 3, "new"),
        entry("a", 4),
        entry("a", 4, "old"),
        entry("b", 3, "new"),
        entry("b", 2, "other"),
    ]
    outcomes: Any = direct.advance({"a": 5 + 24, "b": 5, "c": 7}, records=entries)
    # The five first, then the new key, then the entry without one.
    assert outcomes["a"].first == 11
    new, old, twice, plain, reused = outcomes["a"].records
    assert [new, old, twice, plain] == [
        RecordedRange(16),
        RecordedRange(1, True),
        RecordedRange(16, True),
        RecordedRange(19),
    ]
    assert isinstance(reused, KeyReused)
    refused, other = outcomes["b"].records
    assert isinstance(refused, KeyReused)
    assert other == RecordedRange(1)
    assert outcomes["c"].records == ()
    assert direct.store.counters() == {"a": 23, "b": 3, "c": 8}


def test_record_and_counter_are_written_together_or_not_at_all(
    direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the transaction fails behind both, neither is there."""
    direct.first("file")
    insert = direct.store.journal.insert

    def fail(added: Any) -> None:
        insert(added)
        raise ZeroDivisionError

    monkeypatch.setattr(direct.store.journal, "insert", fail)
    with pytest.raises(ZeroDivisionError):
        record(direct, entry("file", 10, "one"))
    monkeypatch.undo()
    assert (direct.store.counters(), rows(direct)) == ({"file": 2}, [])


def test_a_new_key_costs_a_batch_one_statement_and_no_key_none(
    direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without entries every statement is as it was; with them one INSERT for all is added."""
    direct.first("file")
    direct.store.need_journal()
    seen = statements(direct, monkeypatch)
    direct.first("file", 1, file=2)
    without = list(seen)
    assert not any("journal" in sql for sql in without)
    seen.clear()
    many = [entry("file", 1, f"key {number}") for number in range(50)]
    record(direct, *many, floors={"file": 3})
    assert [sql for sql in seen if "journal" in sql] == ["INSERT journal"]
    assert len(seen) == len(without) + 1
    # Nor do replays make the next request without a key more expensive.
    record(direct, entry("file", 1, "key 7"), entry("file", 2), floors={"file": 53})
    seen.clear()
    direct.first("file", 1, file=55)
    assert seen == without


def test_refused_requests_leave_their_key_free(make_store: Callable[..., Direct]) -> None:
    """Too many modes, a counter at its end, a regressed counter: nothing is recorded."""
    direct = make_store(max_modes=1)
    direct.first("file")
    assert isinstance(record(direct, entry("new", 1, "one"))["new"], TooManyModes)
    direct.advance({"file": 0}, {"file": MAX_ID})
    assert isinstance(record(direct, entry("file", 2, "one"))["file"], CounterExhausted)
    stopped = record(direct, entry("file", 1, "one"), floors={"file": MAX_ID + 1}, repair=False)
    assert isinstance(stopped["file"], CounterRegressed)
    assert rows(direct) == []
    assert placed(direct, entry("file", 1, "one")) == RecordedRange(MAX_ID)


def test_a_key_is_answered_again_when_its_counter_has_ended(direct: Direct) -> None:
    """A replay takes no ID, so it needs none; neither does it when it comes with others."""
    direct.advance({"file": 0}, {"file": MAX_ID - 9})
    assert placed(direct, entry("file", 10, "one")) == RecordedRange(MAX_ID - 9)
    assert placed(direct, entry("file", 10, "one")) == RecordedRange(MAX_ID - 9, True)
    assert isinstance(record(direct, entry("file", 1, "two"))["file"], CounterExhausted)


def test_a_replay_keeps_its_counter_above_it(direct: Direct) -> None:
    """A counter that was lowered, or lost, while the journal was not: no ID comes twice."""
    placed(direct, entry("file", 10, "one"))
    for damage in ("UPDATE uniqueindex SET {} = 1", "DELETE FROM uniqueindex WHERE {} > 0"):
        with db_session:
            column = direct.store.database.provider.quote_name("index")
            direct.store.database.execute(damage.format(column), {}, {})
        assert isinstance(
            record(direct, entry("file", 10, "one"), repair=False)["file"], CounterRegressed
        )
        outcome = record(direct, entry("file", 10, "one"))["file"]
        assert (outcome.regressed, outcome.records) == (True, (RecordedRange(1, True),))
        assert direct.store.counters() == {"file": 11}


def test_a_record_that_is_lost_between_reading_and_confirming_is_no_answer(
    direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover in between: the next attempt allocates above it."""
    placed(direct, entry("file", 10, "one"))
    find = direct.store.journal.find

    def find_then_lose(entries: Any) -> Any:
        found = find(entries)
        with db_session:
            direct.store.database.execute("DELETE FROM uniqueidjournal", {}, {})
        return found

    monkeypatch.setattr(direct.store.journal, "find", find_then_lose)
    assert placed(direct, entry("file", 10, "one")) == RecordedRange(11)
    assert [row[:4] for row in rows(direct)] == [("one.............", "file", 11, 20)]


@pytest.mark.parametrize("same_mode", [True, False])
def test_four_processes_with_the_same_keys(
    make_store: Callable[..., Direct], same_mode: bool
) -> None:
    """Each key gets one range, whichever request is first; with another mode it is refused."""
    stores = [make_store() for _ in range(4)]
    barrier = threading.Barrier(4)
    rounds = 15

    def client(number: int) -> list[tuple[str, str, int]]:
        direct = stores[number]
        got = []
        for step in range(rounds):
            mode = "m" if same_mode else f"m{number % 2}"
            keys = [f"key {step} {part}" for part in range(3)]
            # In another order, so that a circle of waiting would show.
            for key in keys if number % 2 else reversed(keys):
                barrier.wait(60)
                while True:
                    outcome = record(direct, entry(mode, 2, key), deadline=time.monotonic() + 120)[
                        mode
                    ]
                    if not isinstance(outcome, ModeBusy):
                        break
                (found,) = outcome.records
                if isinstance(found, RecordedRange):
                    got.append((key, mode, found.first))
        direct.store.disconnect()
        return got

    with ThreadPoolExecutor(4) as pool:
        got = [item for found in pool.map(client, range(4)) for item in found]
    written = {(row[0], row[1], row[2]) for row in rows(stores[0])}
    answered = {(key.ljust(16, "."), mode, first) for key, mode, first in got}
    assert answered == written
    # Without the modes: of the other order of keys each meets each.
    assert len({key for key, _mode, _first in written}) == len(written) == 3 * rounds


@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
def test_a_key_in_flight_in_another_process_is_waited_for(
    make_store: Callable[..., Direct],
) -> None:
    """Its transaction is open: the other one is told to wait, and then gets the same range."""
    first, second = make_store(), make_store()
    first.first("file")
    # Before the transaction, which may not be idle for long.
    second.store.ping()
    original = first.store.journal.insert
    waited: list[Any] = []

    def insert_and_ask_elsewhere(added: Any) -> None:
        original(added)
        waited.append(apart(second, "advance", {"file": 5}, records=[entry("file", 5, "one")]))

    first.store.journal.insert = insert_and_ask_elsewhere  # type: ignore[method-assign]
    assert placed(first, entry("file", 5, "one")) == RecordedRange(2)
    assert isinstance(waited[0]["file"], ModeBusy)
    assert placed(second, entry("file", 5, "one")) == RecordedRange(2, True)


@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
@pytest.mark.parametrize("arrives", [True, False], ids=["arrived", "never_arrived"])
def test_a_commit_without_an_answer_is_looked_up(
    kind: str, arrives: bool, request: pytest.FixtureRequest
) -> None:
    """Its keyed requests get what they had got, once, and only those without a key leave a gap."""
    server: servers.MariaDB | servers.PostgreSQL = request.getfixturevalue(kind)
    causes: list[Cause] = []
    with Proxy(server.port) as proxy:
        direct = Direct(server.url(server.new_database(), proxy.port), on_retry=causes.append)
        schema.sync(direct.store)
        direct.advance({"file": 1, "b": 1})
        direct.store.need_journal()
        proxy.arm(commit_answer_is_lost if arrives else commit_never_arrives, 1)
        asked = [entry("file", 5, "one"), entry("file", 5, "one"), entry("b", 3, "two")]
        # With floors, so that nothing else is asked before the transaction.
        outcomes: Any = direct.advance({"file": 17, "b": 3}, {"file": 2, "b": 2}, records=asked)
        assert proxy.fired == 1
        assert causes == [Cause.CONNECTION]
        # Seven without a key, then the five of the key, which was sent twice.
        assert outcomes["file"].first == (14 if arrives else 2)
        assert outcomes["file"].records == (RecordedRange(9), RecordedRange(9, True))
        assert outcomes["b"].records == (RecordedRange(2),)
        assert direct.store.counters() == {"file": 21 if arrives else 14, "b": 5}
        direct.store.disconnect()


def test_without_the_table_only_entries_are_refused(bare: Direct) -> None:
    """A database of version 1.0 is served; dbsync is noticed without a new start."""
    schema.sync(bare.store)
    with db_session:
        bare.store.database.execute("DROP TABLE uniqueidjournal", {}, {})
    assert bare.first("file") == 1
    with pytest.raises(JournalMissing, match="pacifica-uniqueid-cmd dbsync"):
        record(bare, entry("file", 1, "one"))
    assert bare.store.prune() == 0
    schema.step_back(bare.store)
    schema.sync(bare.store)
    assert placed(bare, entry("file", 1, "one")) == RecordedRange(2)
    with db_session:
        bare.store.database.execute("DROP TABLE uniqueidjournal", {}, {})
    with pytest.raises(DatabaseUnavailable, match="uniqueidjournal"):
        record(bare, entry("file", 1, "one"))
    # And from then on it is known to have gone.
    with pytest.raises(JournalMissing):
        record(bare, entry("file", 1, "one"))
    assert bare.first("file") == 3


# -- pruning -----------------------------------------------------------------------------------


def test_what_has_expired_is_deleted_step_by_step(direct: Direct) -> None:
    """The oldest first and this many at once, and nothing else."""
    old = [entry("file", 1, f"old {number}", expires=number + 1) for number in range(7)]
    record(direct, *old, entry("file", 1, "kept"), entry("file", 1))
    direct.store.need_journal()
    assert direct.store.journal.prune(now(), 3) == 3
    assert [row[2] for row in rows(direct, mode="file")] == [4, 5, 6, 7, 8, 9]
    assert direct.store.prune() == 4
    assert direct.store.prune() == 0
    assert [row[2] for row in rows(direct, mode="file")] == [8, 9]
    # The key has been forgotten: what it gets now is new.
    assert placed(direct, entry("file", 1, "old 1")) == RecordedRange(10)


def test_two_processes_may_prune_at_once(make_store: Callable[..., Direct]) -> None:
    """While requests are recorded; all that has expired goes, and no request fails."""
    stores = [make_store(), make_store(), make_store()]
    for start in range(0, 3 * PRUNE_STEP, 500):
        batch = [entry("file", 1, f"old {start + n}", expires=1) for n in range(500)]
        record(stores[0], *batch)
    done = threading.Event()

    def prune(direct: Direct) -> int:
        total = 0
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                total += direct.store.prune()
            except Exception:  # a conflict with the other: the committer has time, too
                continue
            if not rows(direct, mode="file"):
                break
        direct.store.disconnect()
        return total

    def ask(direct: Direct) -> int:
        for number in count():
            if done.is_set() or number >= 2000:
                return number
            placed(direct, entry("new", 1, f"new {number}"), deadline=time.monotonic() + 60)
        raise AssertionError

    with ThreadPoolExecutor(3) as pool:
        asked = pool.submit(ask, stores[2])
        assert sum(pool.map(prune, stores[:2])) == 3 * PRUNE_STEP
        done.set()
        asked_times = asked.result(120)
    assert len(rows(stores[0])) == asked_times


# -- provenance --------------------------------------------------------------------------------


def test_who_has_an_id(direct: Direct) -> None:
    """The row of its range, with all its fields; none for what was not recorded."""
    at = now()
    record(direct, entry("file", 10))
    facts = {"caller": "ingest", "client": "ingest/1.0 (\\xe4)", "request_id": "r-1", "time": at}
    record(direct, entry("file", 5, "one", **facts))
    direct.first("file", 3)
    record(direct, entry("päth ☃", 7))
    journal = direct.store.journal
    for one in (11, 13, 15):
        found = journal.who_has("file", one)
        assert found is not None
        assert (found.first, found.last, found.key) == (11, 15, "one.............")
        assert {name: getattr(found, name) for name in facts} == facts
    assert journal.who_has("file", 10).first == 1  # type: ignore[union-attr]
    assert journal.who_has("päth ☃", 7).last == 7  # type: ignore[union-attr]
    for mode, one in (("file", 16), ("file", 18), ("file", 19), ("other", 1), ("FILE", 1)):
        assert journal.who_has(mode, one) is None


def test_the_journal_is_listed_between_bounds(
    direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By mode, time and ID, page by page, as many as are counted."""
    monkeypatch.setattr("uniqueid.database.journal._PAGE", 4)
    for number in range(10):
        record(direct, entry("a", 10, time=number * 100), entry("b", 1, time=number * 100))
    journal = direct.store.journal

    def firsts(**bounds: Any) -> list[int]:
        found = [one.first for one in journal.rows(**bounds)]
        assert journal.count(**bounds) == len(found)
        return found

    assert firsts(mode="a") == list(range(1, 100, 10))
    assert len(firsts()) == 20
    assert firsts(mode="a", since=200, until=500) == [21, 31, 41]
    assert firsts(mode="a", low=30, high=51) == [21, 31, 41, 51]
    assert firsts(mode="b", low=9) == [9, 10]
    assert firsts(mode="c") == []
    assert len(firsts(since=900)) == 2


# -- by the committer --------------------------------------------------------------------------


@pytest.fixture
def make_allocator(make_store: Callable[..., Direct]) -> Iterator[Callable[[], Allocator]]:
    made: list[Allocator] = []

    def make() -> Allocator:
        direct = make_store()
        made.append(Allocator(direct.store, request_timeout=60, prune=direct.store.prune))
        return made[-1]

    yield make
    for allocator in made:
        assert allocator.close(60)


def test_a_key_that_the_database_forgot_gets_a_second_range_above_the_first(
    make_allocator: Callable[[], Allocator], direct: Direct
) -> None:
    """Counter and journal regressed together, by a failover or a restore: no ID is repeated."""
    allocator = make_allocator()
    assert allocator.allocate("file", 10, entry("file", 10, "one")).first == 1
    with db_session:
        direct.store.database.execute("DELETE FROM uniqueidjournal", {}, {})
        direct.store.database.execute("DELETE FROM uniqueindex", {}, {})
    again = allocator.allocate("file", 10, entry("file", 10, "one"))
    assert (again.first, again.replayed) == (11, False)


def test_a_replay_is_not_refused_for_a_lost_counter_that_has_no_ids_left(direct: Direct) -> None:
    """A replay takes none; so the key is read before the mode is refused."""
    direct.first("file")
    direct.advance({"file": 0}, {"file": MAX_ID})
    marks = {"file": MAX_ID + 1}
    assert placed(direct, entry("file", 1, "one")) == RecordedRange(MAX_ID)
    with db_session:
        direct.store.database.execute("DELETE FROM uniqueindex", {}, {})
    assert placed(direct, entry("file", 1, "one"), floors=marks) == RecordedRange(MAX_ID, True)
    assert direct.store.counters() == marks
    assert isinstance(record(direct, entry("file", 1, "two"))["file"], CounterExhausted)


def test_replays_do_not_move_the_fence(
    direct: Direct, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was answered again, or refused, is no ID that the fence or the guard has to know of."""
    fence = FencedStore(direct.store, str(tmp_path / "fence"))
    allocator = Allocator(fence, request_timeout=60, high_water_marks=fence.high_water_marks)
    try:
        assert allocator.allocate("file", 10, entry("file", 10, "one")).first == 1
        assert allocator.allocate("file", 10, entry("file", 10, "one")).first == 1
        with pytest.raises(KeyReused):
            allocator.allocate("new", 9, entry("new", 9, "one"))
        assert allocator.high_water_marks["file"] == 11
        assert allocator.allocate("file", 1).first == 11
        assert allocator.allocate("new", 1).first == 1
    finally:
        assert allocator.close(60)
    assert "regression" not in caplog.text
    assert direct.store.counters() == {"file": 12, "new": 2}


def test_many_clients_of_two_services_with_few_keys(
    make_allocator: Callable[[], Allocator], direct: Direct
) -> None:
    """Every key has one range, known to all, and no two keys share an ID."""
    allocators = [make_allocator(), make_allocator()]

    def client(number: int) -> list[tuple[str, int, bool]]:
        got = []
        for step in range(30):
            key = f"key {(number * 7 + step) % 40}"
            size = 1 + (number * 7 + step) % 40
            answer = allocators[number % 2].allocate("file", size, entry("file", size, key))
            got.append((key, answer.first, answer.replayed))
            if step % 3 == 0:
                allocators[number % 2].allocate("file", 2)
        return got

    with ThreadPoolExecutor(16) as pool:
        got = [item for found in pool.map(client, range(16)) for item in found]
    ranges: dict[str, set[int]] = {}
    for key, first, _replayed in got:
        ranges.setdefault(key, set()).add(first)
    assert all(len(firsts) == 1 for firsts in ranges.values())
    assert sum(not replayed for _key, _first, replayed in got) == len(ranges) == 40
    ids = [
        one
        for key, (first,) in ((key, tuple(firsts)) for key, firsts in ranges.items())
        for one in range(first, first + 1 + int(key.split()[1]))
    ]
    assert len(set(ids)) == len(ids)
    assert direct.store.counters() == {"file": 1 + len(ids) + 16 * 10 * 2}
