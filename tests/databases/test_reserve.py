"""Reserved IDs on real databases: what is given back and what is not, and the service with them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import servers

from uniqueid.database_errors import LostUpdate
from uniqueid.errors import DatabaseUnavailable
from uniqueid.store import Store

from .conftest import Direct

N = 100
_SESSION = {"mariadb": "SELECT CONNECTION_ID()", "postgresql": "SELECT pg_backend_pid()"}
_KILL = {"mariadb": "KILL {}", "postgresql": "SELECT pg_terminate_backend({})"}
_COUNT = {
    "mariadb": "SELECT count(*) FROM information_schema.processlist WHERE id = {}",
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE pid = {}",
}


def give_back(store: Store, **rests: tuple[int, int]) -> int:
    return store.give_back(rests, deadline=time.monotonic() + 30)


def test_a_counter_goes_back_only_from_where_it_was_left(direct: Direct) -> None:
    """Those that somebody has moved stay, and so does what does not exist."""
    direct.advance(dict.fromkeys("abc", 100))
    direct.first("b", 1)
    assert give_back(direct.store, a=(41, 101), b=(41, 101), c=(1, 101), d=(1, 101)) == 2
    assert direct.store.counters() == {"a": 41, "b": 102, "c": 1}
    assert [direct.first(mode, 5) for mode in "abc"] == [41, 102, 1]


def test_a_counter_goes_back_once(direct: Direct) -> None:
    """What was taken since stays taken."""
    direct.first("a", 100)
    assert give_back(direct.store, a=(41, 101)) == 1
    assert direct.first("a", 10) == 41
    assert give_back(direct.store, a=(41, 101)) == 0
    assert direct.store.counters() == {"a": 51}


def test_what_another_process_has_given_back_in_full_does_not_matter(
    make_store: Callable[..., Direct],
) -> None:
    """The counter is where it was left, and nobody has anything above."""
    one, other = make_store(), make_store()
    one.first("a", 100)
    assert other.first("a", 100) == 101
    assert give_back(one.store, a=(41, 101)) == 0
    assert give_back(other.store, a=(101, 201)) == 1
    assert give_back(one.store, a=(41, 101)) == 1
    assert one.store.counters() == {"a": 41}


def test_two_processes_that_give_back_at_once(make_store: Callable[..., Direct]) -> None:
    """Whichever comes first: no ID that either has handed out is above the counter."""
    stores = [make_store(), make_store()]
    rests = {}
    for step in range(20):
        for store in stores:
            rests[store] = {f"m{step}": (store.first(f"m{step}", 50) + 5, store.first("x", 0))}
        # Each has its own 50; the last one's end is where the counter stands.
        spans = {
            store: {mode: (first, first + 45) for mode, (first, _x) in rest.items()}
            for store, rest in rests.items()
        }
        with ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(_in_own_session, store, spans[store]) for store in stores]
            lowered = [call.result(60) for call in calls]
        assert sum(lowered) == 1
        assert stores[0].store.counters()[f"m{step}"] == 56


def _in_own_session(direct: Direct, rests: dict[str, tuple[int, int]]) -> int:
    """In the thread of the call, which has a connection of its own: made before, as a service's."""
    with contextlib.closing(_Disconnecting(direct.store)):
        direct.store.ping()
        return direct.store.give_back(rests, deadline=time.monotonic() + 30)


class _Disconnecting:
    def __init__(self, store: Store) -> None:
        self.close = store.disconnect


def test_a_new_session_gives_nothing_back(direct: Direct) -> None:
    """It may lead to a server on which somebody else has the same IDs."""
    direct.first("a", 100)
    direct.store.disconnect()
    with pytest.raises(DatabaseUnavailable, match="the session in which"):
        give_back(direct.store, a=(41, 101))
    assert direct.store.counters() == {"a": 101}


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_a_session_that_was_killed_gives_nothing_back(
    kind: str, direct: Direct, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither when it was before, nor between the UPDATE and the COMMIT."""
    server = request.getfixturevalue(kind)
    database = direct.store.database
    execute = database.execute

    def kill() -> None:
        session = execute(_SESSION[kind], {}, {}).fetchone()[0]
        server.sql(_KILL[kind].format(session))
        servers.wait_until(
            lambda: server.sql(_COUNT[kind].format(session)).strip() == "0",
            "the end of the session",
        )

    def interfere(sql: str, *arguments: Any) -> Any:
        answer = execute(sql, *arguments)
        if sql.startswith("UPDATE"):
            kill()
        return answer

    direct.first("a", 100)
    with monkeypatch.context() as patch:
        patch.setattr(database, "execute", interfere)
        with pytest.raises(DatabaseUnavailable):
            give_back(direct.store, a=(41, 101))
    assert direct.store.counters() == {"a": 101}


def test_a_conflict_is_tried_again_and_a_lost_answer_is_not(
    direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a COMMIT without an answer somebody else may have the IDs."""
    transact = direct.store._transact_back
    errors: list[Exception] = [LostUpdate()]
    calls = []

    def broken(*arguments: Any) -> Any:
        calls.append(arguments)
        done = transact(*arguments)
        if errors:
            raise errors.pop()
        return done

    monkeypatch.setattr(direct.store, "_transact_back", broken)
    direct.first("a", 100)
    assert give_back(direct.store, a=(41, 101)) == 0, "the first try has done it"
    assert len(calls) == 2
    direct.first("b", 100)
    errors.append(ConnectionResetError("lost"))
    with pytest.raises(DatabaseUnavailable, match="lost"):
        give_back(direct.store, b=(41, 101))
    assert len(calls) == 3


def worker(service: servers.Service) -> int:
    assert service.process is not None
    pid = service.process.pid
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
        return int(children.read())


def test_a_stop_leaves_no_gap_and_a_kill_one_of_a_block(database_url: str) -> None:
    """The shipped uWSGI settings: SIGTERM, SIGHUP, and kill -9 of the worker."""
    service = servers.Service(database_url, reserve=str(N), access_log="1")
    with servers.running(service):
        assert [service.allocate("file", count) for count in (1, 5)] == [(1, 1), (2, 6)]
        assert service.allocate("other", 3) == (1, 3)
        assert "mode=file range=5 batch=0 start=2 " in service.log.read_text()
        metrics = service.metrics()
        assert f"\nuniqueid_reserved_ids {2 * N - 5}" in metrics
        assert '\nuniqueid_ids_total{mode="file"} 6.0' in metrics

        service.signal(signal.SIGTERM)
        assert service.wait() == 0
        assert service.cmd("show").split()[-4:] == ["file", "7", "other", "4"]
        assert 'message="reserved IDs given back" modes=2 of=2' in service.log.read_text()
        service.start()
        assert service.allocate("file", 1) == (7, 7)

        before = worker(service)
        service.signal(signal.SIGHUP)
        servers.wait_until(lambda: not os.path.exists(f"/proc/{before}"), "the old worker's end")
        assert service.allocate("file", 1) == (8, 8)

        before = worker(service)
        os.kill(before, signal.SIGKILL)
        servers.wait_until(lambda: not os.path.exists(f"/proc/{before}"), "the worker's end")
        assert service.allocate("file", 1) == (8 + N + 1, 8 + N + 1)


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_two_services_on_one_database(database_url: str) -> None:
    """Each has blocks of its own; nobody gets an ID twice, and a clean stop of both is tidy."""
    both = [servers.Service(database_url, reserve="10") for _ in range(2)]
    with servers.running(both[0]), servers.running(both[1]):

        def client(number: int) -> list[tuple[int, int]]:
            return [both[number % 2].allocate("m", 1 + step % 4) for step in range(40)]

        with ThreadPoolExecutor(8) as pool:
            got = sorted(item for result in pool.map(client, range(8)) for item in result)
        for service in both:
            service.signal(signal.SIGTERM)
        assert [service.wait() for service in both] == [0, 0]
        assert "Traceback" not in both[0].log.read_text() + both[1].log.read_text()
        end = int(both[0].cmd("show").split()[-1])
    last = 0
    for first, reach in got:
        assert first > last
        last = reach
    assert len(got) == 8 * 40
    assert last < end


def test_an_operators_advance_beside_a_service_that_runs_alone(
    new_url: Callable[[str], str],
) -> None:
    """It gives up what it has reserved below, also where the counter is at the value already."""
    service = servers.Service(new_url("sqlite"), reserve=str(N))
    with servers.running(service):
        assert service.allocate("file", 1) == (1, 1)
        assert (
            service.cmd("advance", "--mode", "file", "--to", "50") == f"file: {N + 2} -> {N + 3}\n"
        )
        servers.wait_until(lambda: "\nuniqueid_reserved_ids 0" in service.metrics(), "giving up")
        assert service.allocate("file", 1) == (N + 3, N + 3)
        assert service.cmd("advance", "--mode", "file", "--to", "5000").endswith(" -> 5000\n")
        servers.wait_until(lambda: "\nuniqueid_reserved_ids 0" in service.metrics(), "giving up")
        assert service.allocate("file", 1) == (5000, 5000)
