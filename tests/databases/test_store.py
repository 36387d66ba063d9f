"""What one call of the store does, on SQLite, MariaDB and PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import servers
from pony.orm import db_session
from servers import MariaDB

from uniqueid.database import schema
from uniqueid.database.errors import Cause
from uniqueid.errors import (
    MAX_ID,
    CounterExhausted,
    CounterRegressed,
    DatabaseUnavailable,
    ModeBusy,
    ModeNotStorable,
    TooManyModes,
)
from uniqueid.model import CounterUpdate

from .direct import Direct, apart, kill_sessions

MODES = [
    "file",
    "FILE",
    "file ",
    " file",
    "fïle",
    "ﬁle",
    "日本",
    "😀" * 255,
    "a'b\"c`d",
    "%s",
    "$x",
    "\\",
]


def test_a_counter_starts_at_1_and_goes_on_without_a_gap(direct: Direct) -> None:
    """The column holds the next ID."""
    assert [direct.first("file", count) for count in (10, 1, 5)] == [1, 11, 12]
    assert direct.store.counters() == {"file": 17}


def test_every_mode_is_a_counter_of_its_own(direct: Direct) -> None:
    """Case, blanks, accents and quotes count, in tables which dbsync made."""
    for number, mode in enumerate(MODES, 1):
        assert direct.first(mode, number) == 1
    assert direct.store.counters() == {mode: number + 1 for number, mode in enumerate(MODES, 1)}
    outcomes = direct.advance(dict.fromkeys(MODES, 1))
    assert {mode: outcome.first for mode, outcome in outcomes.items()} == {  # type: ignore[union-attr]
        mode: number + 1 for number, mode in enumerate(MODES, 1)
    }


def test_one_call_is_one_transaction(direct: Direct, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the last of three modes fails, the first two have not moved."""
    direct.advance({"a": 1, "b": 1})
    counters = direct.store._counters
    original = counters._advance_one

    def fail_at_c(mode: str, *arguments: Any, **options: Any) -> Any:
        if mode == "c":
            raise ZeroDivisionError
        return original(mode, *arguments, **options)

    monkeypatch.setattr(counters, "_advance_one", fail_at_c)
    with pytest.raises(ZeroDivisionError):
        direct.advance({"a": 10, "b": 10, "c": 10})
    assert direct.store.counters() == {"a": 2, "b": 2}


def statements(direct: Direct, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first words of the SQL that a store runs from now on."""
    words: list[str] = []
    provider = direct.store.database.provider
    execute = provider.execute

    def note(cursor: Any, sql: str, *arguments: Any) -> Any:
        words.append(sql.split()[0])
        return execute(cursor, sql, *arguments)

    monkeypatch.setattr(provider, "execute", note)
    return words


def test_a_counter_that_nobody_else_moves_is_not_read(
    direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One statement a transaction: the UPDATE, guarded by where this store left the counter."""
    assert direct.first("file", 10) == 1
    words = statements(direct, monkeypatch)
    assert [direct.first("file", 5, file=11), direct.first("file", 1, file=16)] == [11, 16]
    assert words == ["UPDATE", "UPDATE"]


def test_counters_that_nobody_else_moves_are_moved_by_one_statement(
    direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are, and each by its own count."""
    counts = {mode: number for number, mode in enumerate(MODES, 1)}
    direct.advance(counts)
    words = statements(direct, monkeypatch)
    # With high-water marks, as the allocator has them, the modes are not counted.
    outcomes = direct.advance(counts, {mode: count + 1 for mode, count in counts.items()})
    assert words == ["UPDATE"]
    assert {mode: outcome.first for mode, outcome in outcomes.items()} == {  # type: ignore[union-attr]
        mode: count + 1 for mode, count in counts.items()
    }
    assert direct.store.counters() == {mode: 2 * count + 1 for mode, count in counts.items()}
    direct.advance(dict.fromkeys(counts, MAX_ID // 2))
    assert direct.store.counters() == {
        mode: 2 * count + 1 + MAX_ID // 2 for mode, count in counts.items()
    }


def test_counters_of_which_one_was_moved_are_all_read(
    make_store: Callable[..., Direct], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the statement did to the others is undone with its transaction."""
    one, other = make_store(), make_store()
    one.advance({"a": 1, "b": 1, "c": 1})
    assert other.first("b", 10) == 2
    retried: list[Cause] = []
    monkeypatch.setattr(one.store._retry, "on_retry", retried.append)
    outcomes = one.advance({"a": 5, "b": 5, "c": 5}, {"a": 2, "b": 2, "c": 2})
    assert [outcomes[mode].first for mode in "abc"] == [2, 12, 2]  # type: ignore[union-attr]
    assert retried == [Cause.LOST_UPDATE]
    assert one.store.counters() == {"a": 7, "b": 17, "c": 7}


def test_a_counter_that_others_move_is_read(
    make_store: Callable[..., Direct], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong guess writes nothing and is not made again until the counter stood still once."""
    one, other = make_store(), make_store()
    assert [one.first("file"), other.first("file")] == [1, 2]
    words = statements(one, monkeypatch)
    assert one.first("file", 1, file=2) == 3
    assert words == ["UPDATE", "SELECT", "UPDATE"]
    words.clear()
    assert other.first("file", 1, file=3) == 4
    assert one.first("file", 1, file=4) == 5
    assert words == ["SELECT", "UPDATE"]
    words.clear()
    assert [one.first("file", 1, file=6), one.first("file", 1, file=7)] == [6, 7]
    assert words == ["SELECT", "UPDATE", "UPDATE"]


def test_a_counter_that_went_back_is_not_moved_on_unread(direct: Direct) -> None:
    """Not even when it regressed to where this store once left it."""
    assert [direct.first("file", 10), direct.first("file", 10)] == [1, 11]
    with db_session:
        assert direct.store._counters._update("file", 21, 11)
    outcome = direct.advance({"file": 1}, {"file": 21})["file"]
    assert isinstance(outcome, CounterUpdate)
    assert (outcome.first, outcome.database_next_id, outcome.regressed) == (21, 11, True)


def test_the_very_last_id_is_handed_out_and_no_other_after_it(direct: Direct) -> None:
    """The others of the transaction are not affected."""
    direct.first("file", 1)
    direct.advance({"file": 1}, {"file": MAX_ID - 1})
    outcomes = direct.advance({"file": 2, "other": 1})
    refused = outcomes["file"]
    assert isinstance(refused, CounterExhausted)
    assert refused.available == 1
    assert outcomes["other"].first == 1  # type: ignore[union-attr]
    assert direct.first("file", 1) == MAX_ID
    assert isinstance(direct.advance({"file": 1})["file"], CounterExhausted)
    assert direct.store.counters()["file"] == MAX_ID + 1 == 2**63 - 1


def test_a_counter_below_its_floor_is_raised(direct: Direct) -> None:
    """In the same transaction, and the outcome says so."""
    direct.first("file", 10)
    outcome = direct.advance({"file": 5}, {"file": 101})["file"]
    assert (outcome.first, outcome.database_next_id, outcome.regressed) == (101, 11, True)  # type: ignore[union-attr]
    assert direct.first("file", 1, file=106) == 106
    gone = direct.advance({"lost": 0}, {"lost": 51})["lost"]
    assert (gone.first, gone.regressed) == (51, True)  # type: ignore[union-attr]
    assert direct.store.counters() == {"file": 107, "lost": 51}


def test_a_counter_below_its_floor_can_be_refused_instead(direct: Direct) -> None:
    """Then nothing of it is written, and the others go on."""
    direct.first("file", 10)
    outcomes = direct.advance({"file": 5, "b": 1}, {"file": 101}, repair=False)
    refused = outcomes["file"]
    assert isinstance(refused, CounterRegressed)
    assert (refused.found, refused.expected) == (11, 101)
    assert direct.store.counters() == {"b": 2, "file": 11}


def test_a_refused_first_use_leaves_no_row_and_the_others_are_advanced(direct: Direct) -> None:
    """Its row was created to compare it: the transaction is run again without that mode."""
    direct.first("b", 10)
    totals = {"a": 1, "b": 1, "lost": 1, "z": 1}
    outcomes = direct.advance(totals, {"lost": 51}, repair=False)
    refused = outcomes.pop("lost")
    assert isinstance(refused, CounterRegressed)
    assert (refused.found, refused.expected) == (1, 51)
    assert {mode: outcome.first for mode, outcome in outcomes.items()} == {  # type: ignore[union-attr]
        "a": 1,
        "b": 11,
        "z": 1,
    }
    assert isinstance(direct.advance({"new": MAX_ID + 1})["new"], CounterExhausted)
    assert direct.store.counters() == {"a": 2, "b": 12, "z": 2}


def test_no_more_modes_than_max_modes_are_created(make_store: Callable[..., Direct]) -> None:
    """Those that exist are served, and one that was lost may come back."""
    direct = make_store(max_modes=2)
    assert direct.first("a") == 1
    outcomes = direct.advance({"a": 1, "b": 1, "c": 1})
    assert outcomes["b"].first == 1  # type: ignore[union-attr]
    assert isinstance(outcomes["c"], TooManyModes)
    assert isinstance(direct.advance({"c": 1})["c"], TooManyModes)
    assert direct.first("c", 1, c=7) == 7
    assert direct.store.counters() == {"a": 3, "b": 2, "c": 8}


def test_stores_at_once_share_the_counters(make_store: Callable[..., Direct], kind: str) -> None:
    """Eight replicas, the same modes in different orders, first uses included."""
    stores = [make_store() for _ in range(8)]
    barrier = threading.Barrier(8)

    def client(number: int) -> list[tuple[str, int, int]]:
        barrier.wait(30)
        direct = stores[number]
        got = []
        for step in range(20):
            totals = {f"m{(number + step) % 3}": step + 1, f"m{(number + step + 1) % 3}": 2}
            outcomes = direct.advance(totals, deadline=time.monotonic() + 120)
            for mode, outcome in outcomes.items():
                if isinstance(outcome, ModeBusy):
                    continue
                got.append((mode, outcome.first, totals[mode]))  # type: ignore[union-attr]
        direct.store.disconnect()
        return got

    with ThreadPoolExecutor(8) as pool:
        got = [item for found in pool.map(client, range(8)) for item in found]
    assert len(got) >= 8 * 20
    for mode in ("m0", "m1", "m2"):
        end = 0
        for _, first, count in sorted(item for item in got if item[0] == mode):
            assert first > end
            end = first + count - 1
        assert stores[0].store.counters()[mode] > end


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_deadline_ends_the_tries(make_store: Callable[..., Direct]) -> None:
    """With the reason, and with nothing done; the network databases refuse a locked mode alone."""
    calls: list[Cause] = []
    direct = make_store(on_retry=calls.append)
    with db_session(serializable=True):
        direct.store.database.execute("SELECT 1", {}, {})
        with pytest.raises(DatabaseUnavailable, match="locked"):
            apart(make_store(on_retry=calls.append), "advance", {"file": 1}, deadline=soon())
    assert set(calls) == {Cause.LOCK_TIMEOUT}
    assert direct.first("file") == 1


def lock(direct: Direct, mode: str) -> None:
    """Read a counter under its lock, inside a transaction."""
    select = direct.store._counters._statements.select
    assert direct.store.database.execute(select, {}, {"mode": mode}).fetchall()


def soon() -> float:
    return time.monotonic() + 2


def test_a_session_that_the_server_ended_is_replaced(
    direct: Direct, kind: str, request: pytest.FixtureRequest
) -> None:
    """The next call works as if nothing had happened."""
    direct.first("file", 10)
    kill_sessions(direct, kind, request)
    assert direct.first("file", 1) == 11
    kill_sessions(direct, kind, request)
    assert direct.store.counters() == {"file": 12}
    kill_sessions(direct, kind, request)
    direct.store.ping()


def test_the_update_is_guarded_even_on_a_new_connection(direct: Direct) -> None:
    """Were the lock lost unseen, a counter that has moved is not overwritten."""
    direct.first("file", 10)
    with db_session:
        assert not direct.store._counters._update("file", 6, 16)
    assert direct.store.counters() == {"file": 11}


@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
def test_a_locked_counter_is_reported_busy_and_the_others_go_on(
    direct: Direct, make_store: Callable[..., Direct]
) -> None:
    """The store does not wait for it longer than a second or so."""
    direct.advance({"a": 1, "b": 1})
    other = make_store()
    other.store.open()
    with db_session(serializable=True):
        lock(other, "a")
        outcomes = apart(direct, "advance", {"a": 1, "b": 1, "c": 1})
    assert isinstance(outcomes["a"], ModeBusy)
    assert outcomes["b"].first == 2  # type: ignore[union-attr]
    assert outcomes["c"].first == 1  # type: ignore[union-attr]
    assert direct.first("a") == 2


@pytest.mark.parametrize("kind", ["mariadb", "mysql"])
@pytest.mark.parametrize("collation", ["latin1_swedish_ci", "utf8mb3_general_ci"])
def test_a_mode_that_an_old_table_cannot_hold_is_refused_alone(
    bare: Direct, database_server: MariaDB, collation: str
) -> None:
    """The legacy service made its table in the database's own character set."""
    old_table(bare, database_server, collation)
    outcomes = bare.advance({"😀": 1, "file": 1})
    assert isinstance(outcomes["😀"], ModeNotStorable)
    assert outcomes["file"].first == 1  # type: ignore[union-attr]


def old_table(direct: Direct, mariadb: MariaDB, collation: str) -> None:
    charset = collation.partition("_")[0]
    mariadb.sql(
        "CREATE TABLE uniqueindex (id VARCHAR(255) NOT NULL PRIMARY KEY, `index` BIGINT NOT NULL)"
        f" DEFAULT CHARACTER SET {charset} COLLATE {collation}",
        direct.store.url.database,
    )
    schema.sync(direct.store)


@pytest.mark.parametrize("kind", ["mariadb", "mysql"])
def test_spellings_that_an_old_table_takes_for_one_are_one_counter(
    bare: Direct, database_server: MariaDB
) -> None:
    """Still no ID twice, also in one transaction, and also after a counter regression."""
    old_table(bare, database_server, "utf8mb4_general_ci")
    outcomes = bare.advance({"file": 10, "FILE": 5, "file ": 3, "other": 1})
    ranges = sorted(
        (outcomes[mode].first, count)  # type: ignore[union-attr]
        for mode, count in {"file": 10, "FILE": 5, "file ": 3}.items()
    )
    end = 1
    for first, count in ranges:
        assert first == end
        end += count
    counters = {outcomes[mode].counter for mode in ("file", "FILE", "file ")}  # type: ignore[union-attr]
    assert len(counters) == 1
    # The row is lost, and the first to ask spells it another way.
    database_server.sql("DELETE FROM uniqueindex", bare.store.url.database)
    assert bare.first("fÍle", 1, **{counters.pop(): 19}) == 19


@pytest.mark.parametrize("kind", ["mariadb", "mysql"])
def test_a_32_bit_column_would_not_be_bent_to_fit(direct: Direct, database_server: MariaDB) -> None:
    """MariaDB outside its strict mode stores the highest value instead, the same forever."""
    name = direct.store.url.database
    database_server.sql("ALTER TABLE uniqueindex MODIFY `index` INTEGER NOT NULL", name)
    database_server.sql(f"INSERT INTO uniqueindex VALUES ('file', {2**31 - 5})", name)
    assert direct.first("file", 4) == 2**31 - 5
    outcome = direct.advance({"file": 4})["file"]
    assert isinstance(outcome, ModeNotStorable)
    assert database_server.sql("SELECT `index` FROM uniqueindex", name).strip() == str(2**31 - 1)


@pytest.mark.parametrize("kind", ["sqlite"])
def test_sqlite_is_durable_and_readable_meanwhile(direct: Direct) -> None:
    """Write-ahead log, and fsync before COMMIT answers."""
    direct.first("file")
    with db_session:
        execute = direct.store.database.execute
        assert execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert execute("PRAGMA synchronous").fetchone() == (2,)


@pytest.mark.parametrize("kind", ["mariadb", "mysql", "postgresql"])
def test_every_transaction_is_serializable(direct: Direct, kind: str) -> None:
    """As the database itself says from inside of one."""
    question = {
        "mariadb": "SELECT trx_isolation_level FROM information_schema.innodb_trx"
        " WHERE trx_mysql_thread_id = CONNECTION_ID()",
        "postgresql": "SHOW transaction_isolation",
    }[servers.sql_of(kind)]
    direct.first("file")
    with db_session(serializable=True):
        lock(direct, "file")
        if servers.sql_of(kind) == "mariadb":
            # InnoDB's view needs PROCESS; the session's own setting says the same.
            question = f"SELECT {servers.ISOLATION[kind]}"
        level = direct.store.database.execute(question).fetchone()[0]
    assert level.lower() == "serializable"
