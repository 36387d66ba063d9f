"""Modes that are one counter by the collation of the column, on real servers; and modes that only
look as if they were.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
import servers
from pony.orm import db_session
from servers import Service

from uniqueid.allocation.allocator import Allocator
from uniqueid.database import schema
from uniqueid.errors import CounterRegressed, TooManyModes
from uniqueid.fence.file import CounterBound, read, write
from uniqueid.fence.store import FencedStore
from uniqueid.monitoring.health import HealthCheck

from .direct import Direct, kill_sessions, round_trips
from .records import entry, placed, record


class Pair(NamedTuple):
    """Two modes and the column that has them for equal, or not."""

    kind: str
    collation: str
    one: str
    other: str

    def __str__(self) -> str:
        return f"{self.kind}-{self.collation}-{self.one!a}-{self.other!a}"


GENERAL, UNICODE, UCA = "utf8mb4_general_ci", "utf8mb4_unicode_520_ci", "uca1400_ai_ci"
EQUAL = (
    Pair("mariadb", GENERAL, "\U0001f600", "\U0001f601"),
    Pair("mariadb", GENERAL, "file", "FILE"),
    Pair("mariadb", GENERAL, "file", "file  "),
    Pair("mariadb", "utf8mb4_bin", "file", "file "),
    Pair("mariadb", "latin1_swedish_ci", "file", "fIlE"),
    Pair("mariadb", UNICODE, "for", "f\u00f8r"),
    Pair("mariadb", UNICODE, "\u3042", "\u30a2"),
    Pair("mariadb", UNICODE, "file", "fi\u200ble"),
    Pair("mariadb", UCA, "ae", "\u00e6"),
    Pair("mariadb", UCA, "fi\u200dle", "file"),
    Pair("postgresql", "und-u-ks-level1", "file", "F\u00edle"),
    Pair("postgresql", "und-u-ks-level1", "\u3042", "\u30a2"),
    Pair("postgresql", "und-u-ks-level1", "file", "fi\u200ble"),
    Pair("sqlite", "NOCASE", "file", "FILE"),
    Pair("sqlite", "RTRIM", "file", "file "),
)
DIFFERENT = (
    Pair("mariadb", "utf8mb4_bin", "file", "FILE"),
    Pair("mariadb", "utf8mb4_bin", "\U0001f600", "\U0001f601"),
    Pair("mariadb", "utf8mb4_nopad_bin", "file", "file "),
    Pair("mariadb", "utf8mb4_general_nopad_ci", "file", "file "),
    Pair("mariadb", "utf8mb4_nopad_bin", "file", "fi\u200ble"),
    Pair("postgresql", "und-u-ks-level1", "file", "files"),
    Pair("postgresql", "", "file", "FILE"),
    Pair("sqlite", "NOCASE", "\u00e9", "\u00c9"),
    Pair("sqlite", "NOCASE", "file", "file "),
    Pair("sqlite", "RTRIM", "file", "FILE"),
    Pair("sqlite", "BINARY", "file", "FILE"),
)
SOME = tuple(
    next(pair for pair in EQUAL if pair.kind == kind)
    for kind in ("mariadb", "postgresql", "sqlite")
)
"""One of each database."""


@pytest.fixture(params=EQUAL, ids=str)
def pair(request: pytest.FixtureRequest) -> Pair:
    pair: Pair = request.param
    return pair


@pytest.fixture
def kind(pair: Pair) -> str:
    return pair.kind


@pytest.fixture
def make(
    pair: Pair, bare: Direct, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Direct]]:
    """Makes stores on a database whose table has the pair's collation, as several processes do."""
    old_table(pair, bare, request)
    made: list[Direct] = []

    def make(**options: Any) -> Direct:
        made.append(Direct(bare.url, **options))
        return made[-1]

    yield make
    for direct in made:
        direct.store.disconnect()


def old_table(pair: Pair, bare: Direct, request: pytest.FixtureRequest) -> None:
    """Make the table as an older service or a database's default left it, and sync."""
    name = bare.store.url.database
    column = "VARCHAR(255) NOT NULL PRIMARY KEY"
    if pair.kind == "mariadb":
        character_set = "latin1" if pair.collation.startswith("latin1") else "utf8mb4"
        request.getfixturevalue("mariadb").sql(
            f"CREATE TABLE uniqueindex (id {column}, `index` BIGINT NOT NULL)"
            f" DEFAULT CHARACTER SET {character_set} COLLATE {pair.collation}",
            name,
        )
    elif pair.kind == "postgresql":
        collate = "COLLATE equating" if pair.collation else ""
        bare.store.open()
        with db_session(ddl=True):
            execute = bare.store.database.execute
            if pair.collation:
                execute(
                    "CREATE COLLATION equating"
                    f" (provider = icu, locale = '{pair.collation}', deterministic = false)"
                )
            execute(
                f"CREATE TABLE uniqueindex (id VARCHAR(255) {collate} NOT NULL PRIMARY KEY,"
                ' "index" BIGINT NOT NULL)'
            )
    else:
        with closing(sqlite3.connect(name)) as connection:
            connection.execute(
                f"CREATE TABLE uniqueindex (id {column} COLLATE {pair.collation},"
                ' "index" BIGINT NOT NULL)'
            )
    schema.sync(bare.store)


def put(direct: Direct, counters: Mapping[str, int]) -> None:
    """Replace all counters, as a restore of the database does."""
    direct.store.open()
    # Its session may have been ended.
    direct.store.disconnect()
    with db_session:
        quote = direct.store.database.provider.quote_name
        direct.store.database.execute(f"DELETE FROM {quote('uniqueindex')}")
        for mode, next_id in counters.items():
            direct.store.database.insert("uniqueindex", id=mode, index=next_id)


class Server:
    """An allocator on a store of its own, with a fence where one is given."""

    def __init__(self, direct: Direct, fence: Path | None = None, **options: Any) -> None:
        self.store = direct.store
        store: Any = direct.store
        if fence is not None:
            store = FencedStore(store, str(fence), window=100)
            options["high_water_marks"] = store.high_water_marks
        self.allocator = Allocator(store, **options)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_error: object) -> None:
        self.allocator.close(30)

    def allocate(self, mode: str, count: int) -> tuple[int, int]:
        """In a thread of its own, as in the service."""
        found: list[int | Exception] = []

        def ask() -> None:
            try:
                found.append(self.allocator.allocate(mode, count).first)
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(60)
        (first,) = found
        if isinstance(first, Exception):
            raise first
        return first, first + count - 1


# -- a row that is lost, while the service runs -----------------------------------------------


@pytest.mark.parametrize("killed", [True, False], ids=["failover", "same sessions"])
def test_a_lost_counter_is_raised_for_each_of_its_modes(
    pair: Pair, make: Callable[..., Direct], request: pytest.FixtureRequest, killed: bool
) -> None:
    """Whichever of them is the first to be asked for, of those that were used before."""
    direct, operator = make(), make()
    with Server(direct) as server:
        assert server.allocate(pair.one, 1) == (1, 1)
        assert server.allocate(pair.other, 5) == (2, 6)
        put(operator, {})
        if killed:
            kill_sessions(direct, pair.kind, request)
        assert server.allocate(pair.other, 5) == (7, 11)
        put(operator, {})
        assert server.allocate(pair.one, 5) == (12, 16)
    assert list(operator.store.counters().values()) == [17]


def test_a_lost_counter_is_raised_for_a_mode_that_is_new_here(
    pair: Pair, make: Callable[..., Direct]
) -> None:
    """Also where its row comes back, lower and under a name that this process has not seen."""
    direct, operator = make(), make()
    with Server(direct) as server:
        assert server.allocate(pair.one, 10) == (1, 10)
        put(operator, {pair.other: 4})
        assert server.allocate(pair.other, 5) == (11, 15)
        put(operator, {})
        assert server.allocate(pair.other, 5) == (16, 20)
        put(operator, {pair.one: 16})
        assert server.allocate(pair.one, 5) == (21, 25)


def test_stop_refuses_each_mode_of_a_lost_counter(
    pair: Pair, make: Callable[..., Direct], request: pytest.FixtureRequest
) -> None:
    """And serves all of them as soon as an operator has put the counter back under any name."""
    direct, operator = make(), make()
    with Server(direct, repair=False) as server:
        assert server.allocate(pair.one, 10) == (1, 10)
        put(operator, {})
        kill_sessions(direct, pair.kind, request)
        with pytest.raises(CounterRegressed) as refused:
            server.allocate(pair.other, 5)
        assert (refused.value.found, refused.value.expected) == (1, 11)
        with pytest.raises(CounterRegressed):
            server.allocate(pair.one, 5)
        assert operator.store.counters() == {}
        assert operator.first(pair.other, 0, **{pair.other: 11}) == 11
        servers.wait_until(lambda: served(server, pair.one, (11, 15)), "service again")
        assert server.allocate(pair.other, 1) == (16, 16)


def served(server: Server, mode: str, ids: tuple[int, int]) -> bool:
    try:
        assert server.allocate(mode, ids[1] - ids[0] + 1) == ids
    except CounterRegressed:
        return False
    return True


def test_a_counter_under_another_name_is_no_regression(
    pair: Pair, make: Callable[..., Direct], request: pytest.FixtureRequest
) -> None:
    """Its row was inserted again with the right value, as a copy to another table does it."""
    direct, operator = make(), make()
    with Server(direct, repair=False) as server:
        assert server.allocate(pair.one, 10) == (1, 10)
        put(operator, {pair.other: 11})
        kill_sessions(direct, pair.kind, request)
        assert server.allocate(pair.one, 1) == (11, 11)
        assert server.allocate(pair.other, 1) == (12, 12)
        assert not server.allocator.regressed


def test_the_watch_sees_the_counter_under_its_other_name(
    pair: Pair, make: Callable[..., Direct]
) -> None:
    """Neither does it report one that is right, nor miss one that is too low."""
    direct = make()
    put(direct, {pair.other: 11})
    check = HealthCheck(direct.store, lambda: None, lambda: {pair.one: 11})
    try:
        assert check.run().regressed == {}
        put(make(), {pair.other: 10})
        low = check.run().regressed
    finally:
        check.close()
    assert [(error.mode, error.found, error.expected) for error in low.values()] == [
        (pair.one, 10, 11)
    ]


# -- marks from a fence, and from the journal -------------------------------------------------


@pytest.mark.parametrize("stopped", [True, False], ids=["clean stop", "kill -9"])
def test_a_fence_counts_for_each_mode_of_its_counter(
    pair: Pair, make: Callable[..., Direct], tmp_path: Path, stopped: bool
) -> None:
    """The database was restored while the service was down; the first request uses another name."""
    path = tmp_path / "fence.json"
    with Server(make(), path) as server:
        assert server.allocate(pair.one, 10) == (1, 10)
        left = read(str(path))
    if not stopped:
        write(str(path), left)
    end = next(iter(read(str(path)).values())).limit
    assert end == (11 if stopped else 111)
    for counters in ({}, {pair.other: 4}, {pair.one: 4}):
        put(make(), counters)
        write(str(path), {pair.one: CounterBound(11, end)})
        with Server(make(), path) as server:
            assert server.allocate(pair.other, 5) == (end, end + 4)
            assert server.allocate(pair.one, 5) == (end + 5, end + 9)


def test_a_fence_with_several_names_of_a_counter_counts_with_the_highest(
    pair: Pair, make: Callable[..., Direct], tmp_path: Path
) -> None:
    """As after a move to a table with another collation; and each mark goes on with the counter."""
    path = tmp_path / "fence.json"
    write(str(path), {pair.one: CounterBound(50, 50), pair.other: CounterBound(30, 30)})
    direct, operator = make(), make()
    with Server(direct, path) as server:
        assert server.allocate(pair.other, 5) == (50, 54)
        put(operator, {pair.one: 50})
        assert server.allocate(pair.one, 5) == (55, 59)
        put(operator, {pair.other: 52})
        assert server.allocate(pair.other, 5) == (60, 64)


def test_a_fence_without_loss_leaves_no_gap(
    pair: Pair, make: Callable[..., Direct], tmp_path: Path
) -> None:
    """The counter is there under another name, and is not taken for lost."""
    path = tmp_path / "fence.json"
    write(str(path), {pair.one: CounterBound(11, 111)})
    put(make(), {pair.other: 111})
    with Server(make(), path, repair=False) as server:
        assert server.allocate(pair.one, 5) == (111, 115)
        assert not server.allocator.regressed


def test_a_replay_counts_for_each_mode_of_its_counter(
    pair: Pair, make: Callable[..., Direct]
) -> None:
    """The journal has the key and the counter is lost: what is next is above the key's range."""
    first, second = make(), make()
    before = record(first, entry(pair.one, 10, "key"))[pair.one]
    assert before.first == 1
    put(first, {})
    with Server(second) as server:
        again = server.allocator.allocate(pair.one, 10, entry(pair.one, 10, "key"))
        assert (again.first, again.replayed) == (1, True)
        assert server.allocate(pair.other, 1) == (11, 11)
        put(first, {})
        new = entry(pair.other, 3, "another key")
        assert server.allocator.allocate(pair.other, 3, new).first == 12
    assert placed(first, entry(pair.other, 3, "another key")).first == 12


# -- what else counts by mode -----------------------------------------------------------------


def test_a_further_name_of_a_counter_is_no_further_mode(
    pair: Pair, make: Callable[..., Direct]
) -> None:
    """max_modes counts rows; where the row was lost, there is room for it under any name."""
    direct = make(max_modes=1)
    assert direct.first(pair.one, 10) == 1
    assert direct.first(pair.other, 5) == 11
    put(make(), {})
    assert direct.first(pair.other, 5, **{pair.one: 16}) == 16
    assert isinstance(direct.advance({"new": 1}, {pair.one: 21})["new"], TooManyModes)


def test_two_names_in_one_batch_share_the_counter(pair: Pair, make: Callable[..., Direct]) -> None:
    """A counter that was lost is made once, above its mark; both are served."""
    direct = make()
    for start in (1, 21, 41):
        outcomes = direct.advance({pair.one: 10, pair.other: 10}, {pair.one: start})
        firsts = sorted(outcome.first for outcome in outcomes.values())  # type: ignore[union-attr]
        assert firsts == [start, start + 10]
        assert len({outcome.counter for outcome in outcomes.values()}) == 1  # type: ignore[union-attr]
        put(make(), {})


@pytest.mark.parametrize("pair", SOME, ids=str, indirect=True)
def test_the_fence_command_compares_as_the_database(
    pair: Pair, make: Callable[..., Direct], tmp_path: Path
) -> None:
    """It shows the next ID of the counter, and keeps no mark that the counter has passed."""
    path = tmp_path / "fence.json"
    write(str(path), {pair.one: CounterBound(11, 111)})
    direct = make()
    put(direct, {pair.other: 120})
    direct.store.disconnect()
    Path("config.cfg").write_text(f"[database]\nurl = {direct.url}\n[fence]\npath = {path}\n")
    shown = servers.run_cmd("-c", "config.cfg", "fence", PYTHONUTF8="1")
    assert [line.split()[-1] for line in shown.stdout.splitlines() if " 111 " in line] == ["ok"]
    adopted = servers.run_cmd("-c", "config.cfg", "fence", "--adopt", PYTHONUTF8="1")
    assert adopted.returncode == 0, adopted.stderr
    assert read(str(path)) == {pair.other: CounterBound(120, 120)}


# -- what is not equal ------------------------------------------------------------------------


@pytest.mark.parametrize("pair", DIFFERENT, ids=str, indirect=True)
def test_modes_that_the_column_tells_apart_have_counters_of_their_own(
    pair: Pair, make: Callable[..., Direct], tmp_path: Path
) -> None:
    """One is not raised because of the other, lost or not, with a fence or without."""
    direct, operator = make(), make()
    with Server(direct) as server:
        assert server.allocate(pair.one, 10) == (1, 10)
        assert server.allocate(pair.other, 5) == (1, 5)
        put(operator, {})
        assert server.allocate(pair.other, 5) == (6, 10)
        assert server.allocate(pair.one, 5) == (11, 15)
    path = tmp_path / "fence.json"
    write(str(path), {pair.one: CounterBound(50, 50)})
    put(operator, {})
    with Server(make(), path) as server:
        assert server.allocate(pair.other, 5) == (1, 5)
        assert server.allocate(pair.one, 5) == (50, 54)


# -- cost -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", SOME, ids=str, indirect=True)
def test_ten_thousand_marks_cost_few_round_trips_and_only_at_the_first_use(
    pair: Pair, make: Callable[..., Direct]
) -> None:
    """500 names are compared in one statement, once for each counter of a process."""
    direct = make()
    marks = {f"mode {number}": 2 for number in range(10_000)} | {pair.one: 100}
    direct.first("something else")
    with round_trips(direct, pair.kind) as sent:
        assert direct.first(pair.other, 1, **marks) == 100
    assert 20 < len(sent) < 20 + 20
    put(make(), {pair.other: 100})
    with round_trips(direct, pair.kind) as sent:
        assert direct.first(pair.other, 1, **marks) == 100
    assert len(sent) < 10


@pytest.mark.parametrize(
    "pair", [Pair("mariadb", "latin1_swedish_ci", "file", "FILE")], ids=str, indirect=True
)
def test_a_mark_that_the_column_cannot_hold_is_in_nobodys_way(
    pair: Pair, make: Callable[..., Direct], tmp_path: Path
) -> None:
    """A fence that was written above another database has it."""
    path = tmp_path / "fence.json"
    write(str(path), {"\U0001f600": CounterBound(50, 50), pair.one: CounterBound(30, 30)})
    put(make(), {"there": 5})
    with Server(make(), path) as server:
        assert server.allocate(pair.other, 5) == (30, 34)
        assert server.allocate("new", 5) == (1, 5)


# -- the service itself -----------------------------------------------------------------------


@pytest.mark.parametrize("on_regression", ["advance", "stop"])
@pytest.mark.parametrize("pair", SOME, ids=str, indirect=True)
def test_the_service_repeats_no_id_when_a_row_is_lost(
    pair: Pair,
    make: Callable[..., Direct],
    request: pytest.FixtureRequest,
    on_regression: str,
) -> None:
    """Over HTTP, as a failover to an older replica shows it."""
    operator = make()

    def get(service: Service, mode: str, count: int) -> tuple[int, dict[str, Any]]:
        return service.get(f"/getid?range={count}&mode={quote(mode)}")

    with servers.running(Service(operator.url, on_regression=on_regression)) as service:
        assert get(service, pair.one, 1) == (200, {"startIndex": 1, "endIndex": 1})
        assert get(service, pair.other, 5) == (200, {"startIndex": 2, "endIndex": 6})
        put(operator, {})
        kill_sessions(operator, pair.kind, request)
        status, document = get(service, pair.other, 5)
        if on_regression == "advance":
            assert (status, document) == (200, {"startIndex": 7, "endIndex": 11})
            return
        assert (status, document["type"].rpartition("/")[2]) == (503, "counter-regressed")
        service.cmd("advance", "--mode", pair.other, "--to", "7")
        answers: list[tuple[int, dict[str, Any]]] = []

        def served_again() -> bool:
            answers.append(get(service, pair.one, 5))
            return answers[-1][0] == 200

        servers.wait_until(served_again, "service again")
        assert answers[-1] == (200, {"startIndex": 7, "endIndex": 11})
