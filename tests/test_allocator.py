"""Group commit, deadlines, the guard; the transactions are held up by a gate and counted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from fakes import Clock, FakeStore
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import wait_until

from uniqueid.allocation.allocator import Allocator
from uniqueid.allocation.committer import MAX_FAILURES
from uniqueid.errors import (
    MAX_ID,
    Closing,
    CounterExhausted,
    CounterRegressed,
    DatabaseUnavailable,
    ModeBusy,
    Overloaded,
    TooManyModes,
    TransactionRejected,
    Unexpected,
)
from uniqueid.model import Allocation, AllocationRecord
from uniqueid.monitoring.metrics import Metrics


class ConcurrentCallers:
    """Callers in threads of their own, who arrive one after the other."""

    def __init__(self, allocator: Allocator, pool: ThreadPoolExecutor) -> None:
        self.allocator = allocator
        self.pool = pool

    def request(self, mode: str, count: int) -> Future[Allocation]:
        """Let one more caller wait; it stands in the queue when this returns."""
        before = self.allocator.waiting
        future = self.pool.submit(self.allocator.allocate, mode, count)
        wait_until(lambda: self.allocator.waiting > before or future.done(), "a caller waiting")
        return future


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture(params=[False, True], ids=["several CPUs", "one CPU"])
def allocator(store: FakeStore, request: pytest.FixtureRequest) -> Iterator[Allocator]:
    """Its callers wake all at once, or one after the other."""
    allocator = Allocator(store, request_timeout=30)
    allocator.start(one_cpu=request.param)
    yield allocator
    store.gate.set()
    store.ping_error = None
    assert allocator.close(30)


@pytest.fixture
def callers(allocator: Allocator) -> Iterator[ConcurrentCallers]:
    with ThreadPoolExecutor(64) as pool:
        yield ConcurrentCallers(allocator, pool)


def hold_up(store: FakeStore, callers: ConcurrentCallers) -> Future[Allocation]:
    """Close the gate with one request behind it; the next ones have to wait."""
    store.gate.clear()
    future = callers.pool.submit(callers.allocator.allocate, "first", 1)
    assert store.arrived.acquire(timeout=30)
    return future


def test_ranges_of_a_mode_follow_each_other_from_1(allocator: Allocator) -> None:
    """The first allocation of a mode starts at 1, the next continues without a gap."""
    assert [allocator.allocate("file", count).first for count in (10, 1, 5)] == [1, 11, 12]
    assert allocator.allocate("upload_job", 1).first == 1


def test_requests_that_wait_share_one_transaction(
    store: FakeStore, callers: ConcurrentCallers
) -> None:
    """What arrives during a commit is added up per mode for the next one."""
    first = hold_up(store, callers)
    others = [callers.request(mode, count) for mode, count in [("a", 3), ("b", 5), ("a", 4)] * 10]
    store.gate.set()
    assert first.result(30).first == 1
    assert [future.result(30).first for future in others[:3]] == [1, 1, 4]
    assert [future.result(30).first for future in others[-3:]] == [64, 46, 67]
    assert store.transactions == [{"first": 1}, {"a": 70, "b": 50}]


def test_a_lone_request_does_not_wait_for_company(allocator: Allocator, store: FakeStore) -> None:
    """One request, one transaction."""
    for _ in range(3):
        allocator.allocate("file", 1)
    assert store.transactions == [{"file": 1}] * 3


def test_no_request_is_answered_before_the_commit(
    store: FakeStore, callers: ConcurrentCallers
) -> None:
    """While the transaction is held up there is no answer."""
    first = hold_up(store, callers)
    second = callers.request("a", 1)
    assert not first.done()
    assert not second.done()
    store.gate.set()
    assert second.result(30).first == 1


def test_a_batch_is_bounded(store: FakeStore) -> None:
    """More requests than batch_size are several transactions."""
    allocator = Allocator(store, batch_size=4)
    with ThreadPoolExecutor(64) as pool:
        callers = ConcurrentCallers(allocator, pool)
        hold_up(store, callers)
        futures = [callers.request("a", 1) for _ in range(10)]
        store.gate.set()
        assert sorted(future.result(30).first for future in futures) == list(range(1, 11))
    assert [sum(totals.values()) for totals in store.transactions] == [1, 4, 4, 2]
    assert allocator.close(30)


def test_a_full_queue_refuses_at_once(store: FakeStore) -> None:
    """One more than queue_size is an Overloaded; those in the queue are served."""
    allocator = Allocator(store, queue_size=2)
    with ThreadPoolExecutor(8) as pool:
        callers = ConcurrentCallers(allocator, pool)
        hold_up(store, callers)
        futures = [callers.request("a", 1), callers.request("a", 1)]
        with pytest.raises(Overloaded, match="2 requests"):
            allocator.allocate("a", 1)
        store.gate.set()
        assert sorted(future.result(30).first for future in futures) == [1, 2]
    assert allocator.close(30)


def test_only_what_does_not_fit_fails_when_a_counter_ends(
    store: FakeStore, callers: ConcurrentCallers
) -> None:
    """The others of the batch get their IDs, up to the very last one."""
    store.values["a"] = MAX_ID - 9
    hold_up(store, callers)
    asked = [callers.request("a", count) for count in (4, 7, 6, 1)] + [callers.request("b", 2)]
    store.gate.set()
    assert asked[0].result(30).first == MAX_ID - 9
    with pytest.raises(CounterExhausted, match="mode 'a' has 6 IDs left"):
        asked[1].result(30)
    assert asked[2].result(30).first == MAX_ID - 5
    with pytest.raises(CounterExhausted, match="has 0 IDs left"):
        asked[3].result(30)
    assert asked[4].result(30).first == 1
    assert store.values["a"] == MAX_ID + 1


def test_a_mode_that_is_refused_fails_alone(store: FakeStore, callers: ConcurrentCallers) -> None:
    """The rest of its batch goes through."""
    store.outcomes["new"] = TooManyModes("new", 1)
    hold_up(store, callers)
    refused, served = callers.request("new", 1), callers.request("file", 1)
    store.gate.set()
    with pytest.raises(TooManyModes):
        refused.result(30)
    assert served.result(30).first == 1


def test_a_locked_mode_waits_without_the_others(
    store: FakeStore, callers: ConcurrentCallers
) -> None:
    """It is retried automatically and gets its IDs when the lock is gone."""
    store.outcomes["locked"] = ModeBusy("locked")
    locked = callers.request("locked", 5)
    assert callers.request("file", 1).result(30).first == 1
    wait_until(lambda: len(store.transactions) >= 3, "another try")
    assert not locked.done()
    del store.outcomes["locked"]
    assert locked.result(30).first == 1


def test_a_locked_mode_is_given_up_at_the_deadline(store: FakeStore) -> None:
    """A transaction that locks a counter forever does not block a caller forever."""
    store.outcomes["locked"] = ModeBusy("locked")
    allocator = Allocator(store, request_timeout=0.5)
    with pytest.raises(DatabaseUnavailable):
        allocator.allocate("locked", 1)
    assert allocator.close(30)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("unexpected"), TransactionRejected("1644: unknown")], ids=type
)
def test_an_unknown_error_fails_the_request_that_causes_it(
    allocator: Allocator,
    store: FakeStore,
    callers: ConcurrentCallers,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The rest of its batch and the next request are served, and the log has the error once."""
    hold_up(store, callers)
    store.failing["bad"] = error
    before = [callers.request("file", 1) for _ in range(11)]
    bad = callers.request("bad", 1)
    after = [callers.request("other", 1) for _ in range(11)]
    with caplog.at_level(logging.WARNING, "uniqueid"):
        store.gate.set()
        assert {future.result(30).first for future in before} == set(range(1, 12))
        assert {future.result(30).first for future in after} == set(range(1, 12))
        with pytest.raises((Unexpected, TransactionRejected)):
            bad.result(30)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert "unexpected" in caplog.text or "1644: unknown" in caplog.text
    assert allocator.unavailable is None
    assert allocator.allocate("file", 1).first == 12


def test_an_unknown_error_of_every_request_ends_the_search_for_one(
    allocator: Allocator, store: FakeStore, callers: ConcurrentCallers
) -> None:
    """All fail, after a bounded number of transactions; the next request is served."""
    hold_up(store, callers)
    waiting = [callers.request("bad", 1) for _ in range(40)]
    store.failing["bad"] = TransactionRejected("unknown")
    store.gate.set()
    for future in waiting:
        with pytest.raises(TransactionRejected):
            future.result(30)
    attempts = 0
    while store.arrived.acquire(blocking=False):
        attempts += 1
    assert attempts == MAX_FAILURES
    assert allocator.allocate("file", 1).first == 1


def test_an_unexpected_error_of_a_whole_batch_is_logged_once(
    allocator: Allocator,
    store: FakeStore,
    callers: ConcurrentCallers,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever asked; all of them get its reference, and the committer goes on."""
    hold_up(store, callers)
    waiting = [callers.request("bad", 1) for _ in range(40)]
    store.failing["bad"] = ZeroDivisionError("forty")
    with caplog.at_level(logging.ERROR, "uniqueid"):
        store.gate.set()
        references = set()
        for future in waiting:
            with pytest.raises(Unexpected) as caught:
                future.result(30)
            references.add(caught.value.reference)
    told = [record.getMessage() for record in caplog.records]
    told = [line for line in told if "failed, reference" in line]
    assert {line.rpartition(" ")[2] for line in told} == references
    assert told[-1].startswith("a batch of ")
    assert allocator.allocate("file", 1).first >= 1


def test_a_database_that_is_down_refuses_all_who_wait_and_those_who_come(
    allocator: Allocator, store: FakeStore, callers: ConcurrentCallers
) -> None:
    """Each learns of it at once and not at its own deadline; then the service recovers."""
    store.ping_error = DatabaseUnavailable("still gone")
    hold_up(store, callers)
    waiting = [callers.request("a", 1) for _ in range(20)]
    store.errors = [DatabaseUnavailable("gone")]
    store.gate.set()
    for future in waiting:
        with pytest.raises(DatabaseUnavailable, match="gone"):
            future.result(30)
    assert store.pings.acquire(timeout=30)
    with pytest.raises(DatabaseUnavailable):
        allocator.allocate("a", 1)
    assert allocator.unavailable is not None
    assert store.transactions == []
    store.ping_error = None
    wait_until(lambda: allocator.unavailable is None, "the database being found again")
    assert allocator.allocate("a", 1).first == 1


def test_a_database_that_hangs_is_found_out_once(store: FakeStore) -> None:
    """After the first time-out no other request waits for all of its own, until it answers."""
    allocator = Allocator(store, request_timeout=0.5)
    with ThreadPoolExecutor(8) as pool:
        callers = ConcurrentCallers(allocator, pool)
        first = hold_up(store, callers)
        with pytest.raises(DatabaseUnavailable, match=r"within 0\.5 seconds"):
            first.result(30)
        wait_until(lambda: allocator.unavailable is not None, "the hang being noticed")
        with pytest.raises(DatabaseUnavailable):
            allocator.allocate("a", 1)
        store.gate.set()
        wait_until(lambda: allocator.unavailable is None, "the database answering")
    assert allocator.allocate("a", 1).first == 1
    assert allocator.close(30)


def test_a_request_that_gave_up_in_the_queue_takes_no_ids(store: FakeStore) -> None:
    """A request without a caller is not allocated."""
    allocator = Allocator(store, request_timeout=0.5)
    with ThreadPoolExecutor(8) as pool:
        callers = ConcurrentCallers(allocator, pool)
        futures = [hold_up(store, callers), callers.request("late", 1)]
        for future in futures:
            assert isinstance(future.exception(30), DatabaseUnavailable)
        store.gate.set()
        wait_until(lambda: allocator.unavailable is None, "the database answering")
    assert allocator.allocate("late", 1).first == 1
    assert allocator.close(30)


def test_closing_answers_what_is_queued_and_refuses_what_comes(
    allocator: Allocator, store: FakeStore, callers: ConcurrentCallers
) -> None:
    """A clean stop loses no answer."""
    hold_up(store, callers)
    waiting = [callers.request("a", 1) for _ in range(20)]
    closed = callers.pool.submit(allocator.close, 30)
    wait_until(allocator._queue.closing.is_set, "the close")
    with pytest.raises(Closing):
        allocator.allocate("a", 1)
    store.gate.set()
    assert sorted(future.result(30).first for future in waiting) == list(range(1, 21))
    assert closed.result(30)
    assert store.disconnected.is_set()


def test_a_counter_that_went_back_is_raised_above_what_was_handed_out(
    allocator: Allocator, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """And so are the other counters that were not requested yet; the log has it."""
    allocator.allocate("file", 100)
    allocator.allocate("other", 50)
    store.values = {"file": 41}
    assert allocator.allocate("file", 5).first == 101
    wait_until(lambda: store.values.get("other") == 51, "the other counter being raised")
    assert store.values["file"] == 106

    def told() -> list[str]:
        lines = [record.getMessage() for record in caplog.records]
        return [line for line in lines if "counter regression detected" in line]

    wait_until(lambda: len(told()) >= 2, "both being told")
    assert allocator.allocate("file", 5).first == 106
    assert told() == [
        f"counter regression detected mode={mode} database_next_id={found} expected={expected}"
        " action=raised"
        for mode, found, expected in (("file", 41, 101), ("other", 1, 51))
    ]


def test_a_new_connection_has_every_counter_compared(
    allocator: Allocator, store: FakeStore
) -> None:
    """It may lead to a replica that lagged."""
    allocator.allocate("file", 100)
    store.values["file"] = 7
    store.connections += 1
    allocator.allocate("other", 1)
    wait_until(lambda: store.values["file"] == 101, "the counter being raised")


def test_stop_refuses_everything_until_the_counter_was_advanced(store: FakeStore) -> None:
    """on_regression = stop leaves the decision to an operator; the service then recovers."""
    allocator = Allocator(store, request_timeout=30, repair=False)
    allocator.allocate("file", 100)
    store.values["file"] = 41
    for mode in ("file", "other"):
        with pytest.raises(CounterRegressed, match=r"'file'.* 41,.* 100 .*advance it to 101"):
            allocator.allocate(mode, 1)
    assert set(allocator.regressed) == {"file"}
    assert store.values == {"file": 41}
    store.values["file"] = 101
    wait_until(lambda: not allocator.regressed, "the counter being found repaired")
    assert allocator.allocate("file", 1).first == 101
    assert allocator.close(30)


def test_the_same_error_object_gathers_no_tracebacks(store: FakeStore) -> None:
    """Minutes of refusals do not fill the memory."""
    store.ping_error = DatabaseUnavailable("gone")
    store.errors = [DatabaseUnavailable("gone")]
    allocator = Allocator(store, request_timeout=30)

    def depth() -> int:
        with pytest.raises(DatabaseUnavailable) as caught:
            allocator.allocate("file", 1)
        return len(caught.traceback)

    depths = {depth() for _ in range(10)}
    assert max(depths) < 5
    store.ping_error = None
    assert allocator.close(30)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 10**9)), min_size=1, max_size=40),
    st.integers(1, 8),
    st.integers(1, 20),
    st.booleans(),
)
def test_ranges_are_disjoint_contiguous_and_all_there(
    requests: list[tuple[str, int]], threads: int, batch_size: int, direct: bool
) -> None:
    """Whatever is requested at the same time, the ranges of a mode tile it without overlap."""
    store = FakeStore()
    # With less patience, callers never execute their own requests.
    allocator = Allocator(store, batch_size=batch_size, request_timeout=30 if direct else 1.9)
    barrier = threading.Barrier(threads)

    def client(number: int) -> list[tuple[str, int, int]]:
        barrier.wait(30)
        return [
            (mode, allocator.allocate(mode, count).first, count)
            for mode, count in requests[number::threads]
        ]

    with ThreadPoolExecutor(threads) as pool:
        ranges = [item for found in pool.map(client, range(threads)) for item in found]
    assert len(ranges) == len(requests)
    for mode in "abc":
        expected = 1
        for _, first, count in sorted(item for item in ranges if item[0] == mode):
            assert first == expected
            expected += count
        assert store.values.get(mode, 1) == expected
    assert allocator.close(30)


def test_a_limited_number_of_callers_wait_for_long(store: FakeStore) -> None:
    """The others give the server's threads back, and who comes then is refused at once."""
    allocator = Allocator(store, request_timeout=30, max_blocked_requests=3)
    store.gate.clear()
    try:
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(allocator.allocate, "file", 1) for _ in range(8)]
            wait_until(lambda: sum(call.done() for call in calls) == 5, "five refused")
            refused = [call for call in calls if call.done()]
            assert {type(call.exception()) for call in refused} == {Overloaded}
            with pytest.raises(Overloaded):
                allocator.allocate("file", 1)
            store.gate.set()
            firsts = [call.result(30).first for call in calls if call not in refused]
        assert len(set(firsts)) == 3
        assert allocator.allocate("file", 1).first > max(firsts)
    finally:
        store.gate.set()
        allocator.close(30)


def test_the_end_of_a_counter_reaches_the_log_once(
    allocator: Allocator, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """However many requests meet it, with what is left."""
    store.values["full"] = MAX_ID - 1
    for _ in range(3):
        with pytest.raises(CounterExhausted):
            allocator.allocate("full", 5)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("mode 'full' has 2 IDs left")
    assert line.endswith("409")


def test_a_database_that_answers_and_yet_fails_is_told_once(
    allocator: Allocator, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a full disk: a sign of life is not the end of it, a transaction is."""
    for _ in range(3):
        store.errors = [DatabaseUnavailable("no space")]
        with pytest.raises(DatabaseUnavailable):
            allocator.allocate("file", 1)
        wait_until(lambda: allocator.unavailable is None, "the database being asked")
    assert allocator.allocate("file", 1).first == 1
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "no space" in told[0]
    assert told[1] == "database available"


# -- an uncontended request -----------------------------------------------------------------------


class Uncontended:
    """An allocator whose last transaction had one caller, so that the next does its own."""

    def __init__(self, store: FakeStore, pool: ThreadPoolExecutor, **options: Any) -> None:
        self.store = store
        self.pool = pool
        options = {"request_timeout": 30, **options}
        self.allocator = Allocator(store, **options)
        assert self.request("file", 10).result(30).first == 1
        store.arrived.acquire(timeout=30)
        self.settle()

    def request(self, mode: str, count: int, **more: Any) -> Future[Allocation]:
        """One more caller. Not this thread, which never executes its own."""
        return self.pool.submit(self.allocator.allocate, mode, count, **more)

    def settle(self) -> None:
        """Return when the committer waits for callers."""
        wait_until(lambda: not self.allocator._store_lock.locked(), "the committer being idle")


@pytest.fixture
def uncontended(store: FakeStore) -> Iterator[Uncontended]:
    with ThreadPoolExecutor(8) as pool:
        uncontended = Uncontended(store, pool)
        yield uncontended
        store.gate.set()
        assert uncontended.allocator.close(30)


def test_an_uncontended_request_needs_no_committer(
    uncontended: Uncontended, store: FakeStore
) -> None:
    """One statement each, in turn, told like any other transaction."""
    answers = [uncontended.request("file", 5).result(30) for _ in range(3)]
    assert answers == [Allocation(first, 1) for first in (11, 16, 21)]
    assert store.transactions == [{"file": 10}, *store.direct]
    assert store.direct == [{"file": 5}] * 3
    assert uncontended.allocator.high_water_marks == {"file": 26}


def test_what_is_handed_out_alone_is_counted(store: FakeStore) -> None:
    """The metrics know no difference."""
    metrics = Metrics()
    with ThreadPoolExecutor(1) as pool:
        uncontended = Uncontended(store, pool, observer=metrics)
        assert uncontended.request("file", 5).result(30).first == 11
        assert uncontended.allocator.close(30)
    text = metrics.render().decode()
    assert "uniqueid_transactions_total 2.0" in text
    assert "uniqueid_batch_requests_count 2.0" in text
    assert 'uniqueid_ids_total{mode="file"} 15.0' in text


def test_a_concurrent_request_waits_for_the_committer(
    uncontended: Uncontended, store: FakeStore
) -> None:
    """And all of them share one transaction, behind the range of the first."""
    store.gate.clear()
    first = uncontended.request("file", 1)
    assert store.arrived.acquire(timeout=30)
    others = [uncontended.request("file", 2) for _ in range(3)]
    wait_until(lambda: uncontended.allocator.waiting == 3, "three that wait")
    assert not first.done()
    store.gate.set()
    assert first.result(30).first == 11
    assert sorted(other.result(30).first for other in others) == [12, 14, 16]
    assert store.direct == [{"file": 1}]
    assert store.transactions[2:] == [{"file": 6}]


def test_after_concurrent_requests_the_committer_executes(
    uncontended: Uncontended, store: FakeStore
) -> None:
    """Until a transaction had one caller again: the first of several is contended."""
    store.gate.clear()
    waiting = [uncontended.request("file", 1)]
    assert store.arrived.acquire(timeout=30)
    waiting += [uncontended.request("file", 1) for _ in range(2)]
    wait_until(lambda: uncontended.allocator.waiting == 2, "two that wait")
    store.gate.set()
    for future in waiting:
        future.result(30)
    store.direct.clear()
    for direct in ([], [{"file": 1}]):
        uncontended.settle()
        uncontended.request("file", 1).result(30)
        assert store.direct == direct


def test_what_fails_in_the_callers_thread_is_tried_again_by_the_committer(
    uncontended: Uncontended, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A conflict, and even a mistake in this program: no caller sees it."""
    for error in (DatabaseUnavailable("a conflict"), ValueError("a mistake")):
        first = uncontended.request("file", 1).result(30).first
        uncontended.settle()
        store.errors = [error]
        store.direct.clear()
        assert uncontended.request("file", 1).result(30).first == first + 1
        assert store.direct == []
        uncontended.settle()
    assert "ValueError: a mistake" in caplog.text
    assert "a conflict" not in caplog.text


def test_an_error_of_a_lone_request_is_final(uncontended: Uncontended, store: FakeStore) -> None:
    """The committer would not have served it either."""
    store.outcomes["new"] = TooManyModes("new", 1)
    with pytest.raises(TooManyModes):
        uncontended.request("new", 1).result(30)
    assert store.transactions[1:] == store.direct == [{"new": 1}]


def test_a_regressed_counter_is_below_what_was_allocated_uncontended(
    uncontended: Uncontended, store: FakeStore
) -> None:
    """The guard knows of those IDs, whichever way they went out."""
    assert uncontended.request("file", 100).result(30).first == 11
    store.values["file"] = 11
    uncontended.settle()
    assert uncontended.request("file", 1).result(30).first == 111


def test_stop_refuses_an_uncontended_request_as_well(store: FakeStore) -> None:
    """on_regression = stop: until an operator has advanced the counter."""
    with ThreadPoolExecutor(1) as pool:
        uncontended = Uncontended(store, pool, repair=False)
        store.values |= {"file": 5, "other": 1}
        for mode in ("file", "other", "file"):
            with pytest.raises(CounterRegressed):
                uncontended.request(mode, 1).result(30)
            uncontended.settle()
        # The first has found it, and left the rest to the committer.
        assert store.direct == [{"file": 1}]
        assert store.values == {"file": 5, "other": 1}
        assert uncontended.allocator.close(30)


def test_a_statement_without_an_answer_has_the_committer_look(store: FakeStore) -> None:
    """Its caller is told in time; others are refused at once until the database answers."""
    clock = Clock(1000.0)
    with ThreadPoolExecutor(2) as pool:
        uncontended = Uncontended(store, pool, clock=clock, request_timeout=2)
        store.gate.clear()
        stuck = uncontended.request("file", 1)
        assert store.arrived.acquire(timeout=30)
        # As a driver does that waits for so long and not longer.
        clock.now += 2
        store.errors = [DatabaseUnavailable("lost")]
        store.ping_error = DatabaseUnavailable("silent")
        store.gate.set()
        with pytest.raises(DatabaseUnavailable, match="within 2 seconds"):
            stuck.result(30)
        assert store.pings.acquire(timeout=30)
        with pytest.raises(DatabaseUnavailable):
            uncontended.request("file", 1).result(30)
        store.ping_error = None
        wait_until(
            lambda: uncontended.allocator.unavailable is None, "the database being found again"
        )
        # What it has done by then is allocated to no client.
        assert uncontended.request("file", 1).result(30).first == 11
        assert uncontended.allocator.close(30)


def test_a_statement_that_hangs_is_found_out_by_those_who_wait(store: FakeStore) -> None:
    """As a transaction of the committer's is."""
    with ThreadPoolExecutor(4) as pool:
        uncontended = Uncontended(store, pool, request_timeout=2)
        store.gate.clear()
        stuck = uncontended.request("file", 1)
        assert store.arrived.acquire(timeout=30)
        with pytest.raises(DatabaseUnavailable, match="within 2 seconds"):
            uncontended.request("file", 1).result(30)
        assert uncontended.allocator.unavailable is not None
        store.gate.set()
        assert stuck.result(30).first == 11
        wait_until(lambda: uncontended.allocator.unavailable is None, "the database answering")
        assert uncontended.allocator.close(30)


def test_no_request_is_uncontended_after_the_close(
    uncontended: Uncontended, store: FakeStore
) -> None:
    """Nor is the connection given up under one who is."""
    store.gate.clear()
    last = uncontended.request("file", 1)
    assert store.arrived.acquire(timeout=30)
    closed = uncontended.pool.submit(uncontended.allocator.close, 30)
    wait_until(uncontended.allocator._queue.closing.is_set, "the close")
    assert not store.disconnected.is_set()
    with pytest.raises(Closing):
        uncontended.request("file", 1).result(30)
    store.gate.set()
    assert last.result(30).first == 11
    assert closed.result(30)
    with pytest.raises(Closing):
        uncontended.request("file", 1).result(30)
    assert store.direct == [{"file": 1}]


def test_with_a_locked_counter_no_request_is_uncontended(
    uncontended: Uncontended, store: FakeStore
) -> None:
    """Those who wait for it have the committer's next try before them."""
    store.outcomes["locked"] = ModeBusy("locked")
    waiting = uncontended.request("locked", 1)
    wait_until(lambda: bool(uncontended.allocator._committer.deferred), "the locked mode")
    uncontended.settle()
    store.direct.clear()
    assert uncontended.request("file", 1).result(30).first == 11
    assert store.direct == []
    del store.outcomes["locked"]
    assert waiting.result(30).first == 1


def test_when_callers_never_do_it_themselves(store: FakeStore) -> None:
    """Where a statement may wait longer for a lock than they may."""
    with ThreadPoolExecutor(1) as pool:
        uncontended = Uncontended(store, pool, request_timeout=1.9)
        uncontended.request("file", 30).result(30)
        assert store.direct == []
        assert uncontended.allocator.close(30)


def test_the_main_thread_never_does_it(uncontended: Uncontended, store: FakeStore) -> None:
    """There a signal could end it in the middle of its statement."""
    assert uncontended.allocator.allocate("file", 1).first == 11
    assert store.direct == []


def test_requests_with_an_entry_are_the_committers(
    uncontended: Uncontended, store: FakeStore
) -> None:
    """Theirs is more than one statement."""
    entry = AllocationRecord("file", 1, "key", "", "client", "id", 1, 2)
    assert uncontended.request("file", 1, record=entry).result(30).first == 11
    assert store.direct == []
