"""One transaction: the order of its steps, and what a failure between two of them leaves."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from fakes import FakeStore

from uniqueid.allocation.availability import DatabaseAvailability
from uniqueid.allocation.executor import BatchExecutor
from uniqueid.allocation.high_water_marks import HighWaterMarks
from uniqueid.allocation.regression import RegressionGuard
from uniqueid.allocation.requests import PendingRequest
from uniqueid.errors import CounterRegressed, DatabaseUnavailable, ModeBusy
from uniqueid.model import Allocation, Observer
from uniqueid.monitoring.incidents import Incidents


class Recording(PendingRequest):
    """A request that notes what holds at the moment at which it is completed."""

    __slots__ = ("note", "noted")

    def __init__(self, mode: str, count: int, note: Callable[[], object]) -> None:
        super().__init__(mode, count, 0.0)
        self.note = note

    def complete(self, result: Allocation | Exception) -> None:
        self.noted = self.note()
        super().complete(result)


class Parts:
    """An executor and what it works with."""

    def __init__(self, store: FakeStore, *, repair: bool = True) -> None:
        self.store = store
        self.marks = HighWaterMarks()
        observer = Observer()
        self.guard = RegressionGuard(
            store,
            self.marks,
            repair=repair,
            timeout=10,
            persistent=False,
            observer=observer,
            clock=time.monotonic,
        )
        availability = DatabaseAvailability(Incidents(), 10, time.monotonic)
        self.executor = BatchExecutor(
            store, self.marks, self.guard, availability, observer, time.monotonic
        )

    def execute(self, *requests: PendingRequest) -> object:
        return self.executor.execute(list(requests), time.monotonic() + 10)


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


def test_a_high_water_mark_is_raised_before_a_request_is_completed(store: FakeStore) -> None:
    """Invariant: an error in between must not leave an ID unguarded."""
    parts = Parts(store)
    requests = [Recording("file", count, parts.marks.snapshot) for count in (3, 4)]
    parts.execute(*requests)
    assert [request.noted for request in requests] == [{"file": 8}, {"file": 8}]
    assert [request.result().first for request in requests] == [1, 4]


def test_the_transaction_is_committed_before_a_request_is_completed(store: FakeStore) -> None:
    """Invariant: no response before COMMIT."""
    parts = Parts(store)
    request = Recording("file", 5, lambda: list(store.transactions))
    parts.execute(request)
    assert request.noted == [{"file": 5}]


def test_counters_are_compared_before_a_request_on_a_new_session_is_completed(
    store: FakeStore,
) -> None:
    """Invariant: the session may lead to another server."""
    parts = Parts(store)
    parts.execute(PendingRequest("file", 100, 0.0))
    store.values["file"] = 5
    store.connections += 1
    request = Recording("other", 1, lambda: store.values["file"])
    parts.execute(request)
    assert request.noted == 101


@pytest.mark.parametrize("step", ["counters", "find"])
def test_a_comparison_that_fails_completes_nothing(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """What was committed is a gap; the next transaction on the session compares again."""
    parts = Parts(store)
    parts.execute(PendingRequest("file", 100, 0.0))
    store.values = {"other": 1} if step == "find" else {"file": 5}
    store.connections += 1

    def fail(*_arguments: object) -> dict[str, int]:
        raise DatabaseUnavailable("gone")

    monkeypatch.setattr(store, step, fail)
    request = PendingRequest("other", 10, 0.0)
    for _attempt in range(2):
        with pytest.raises(DatabaseUnavailable):
            parts.execute(request)
        assert not request.completed
    monkeypatch.undo()
    parts.execute(request)
    assert request.result().first == 21
    assert store.values["file"] == 101


def test_with_stop_nothing_is_completed_on_a_database_that_regressed(store: FakeStore) -> None:
    """Not even for another mode, which was committed: a gap."""
    parts = Parts(store, repair=False)
    parts.execute(PendingRequest("file", 100, 0.0))
    store.values["file"] = 5
    store.connections += 1
    request = PendingRequest("other", 1, 0.0)
    with pytest.raises(CounterRegressed):
        parts.execute(request)
    assert not request.completed
    assert set(parts.guard.regressed) == {"file"}
    store.values["file"] = 101
    parts.guard.recheck()
    parts.execute(request)
    assert request.result().first == 2


def test_a_locked_mode_leaves_its_requests_and_completes_the_others(store: FakeStore) -> None:
    """They are for another transaction."""
    parts = Parts(store)
    busy = store.outcomes["locked"] = ModeBusy("locked")
    locked, other = PendingRequest("locked", 1, 0.0), PendingRequest("file", 1, 0.0)
    unfinished = parts.executor.execute([locked, other], time.monotonic() + 10)
    assert unfinished.busy == [(busy, [locked])]
    assert unfinished.retry == []
    assert other.completed
    assert not locked.completed
