"""Which request gets which IDs, and what else of the allocation is a function or small object."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes import Clock
from hypothesis import given
from hypothesis import strategies as st

from uniqueid.allocation import distribution
from uniqueid.allocation.high_water_marks import HighWaterMarks
from uniqueid.allocation.load_shedding import LoadShedding
from uniqueid.allocation.request_queue import RequestQueue
from uniqueid.allocation.requests import KeysInFlight, PendingRequest
from uniqueid.errors import Closing, DatabaseUnavailable, KeyInFlight, KeyReused, Overloaded
from uniqueid.model import Allocation, AllocationRecord, CounterUpdate, RecordedRange

SIZES = st.lists(st.integers(1, 10**6), min_size=1, max_size=30)


def request(count: int, mode: str = "file", key: str | None = None) -> PendingRequest:
    record = None if key is None else AllocationRecord(mode, count, key)
    return PendingRequest(mode, count, 0.0, record)


def test_requests_are_grouped_by_mode_in_their_order() -> None:
    """And each mode needs the sum of its requests."""
    requests = [request(3, "a"), request(5, "b"), request(4, "a")]
    modes = distribution.by_mode(requests)
    assert modes == {"a": [requests[0], requests[2]], "b": [requests[1]]}
    assert distribution.totals(modes) == {"a": 7, "b": 5}


@given(SIZES, st.integers(1, 10**9))
def test_the_ranges_tile_what_was_allocated(sizes: list[int], first: int) -> None:
    """Disjoint, in the order of arrival, and none is left over."""
    requests = [request(size) for size in sizes]
    update = CounterUpdate("file", first, sum(sizes), first)
    next_id = first
    for size, result in zip(sizes, distribution.results(requests, update, 7), strict=True):
        assert result == Allocation(next_id, 7)
        next_id += size
    assert next_id == update.next_id


def test_requests_with_records_get_what_the_store_resolved() -> None:
    """The others share what is in front of the new records."""
    reused = KeyReused("key", "file", 9)
    ranges = (RecordedRange(1, replayed=True), reused, RecordedRange(16))
    requests = [request(5, key="old"), request(3), request(1, key="reused"), request(2)]
    requests.append(request(4, key="new"))
    update = CounterUpdate("file", 11, 3 + 2 + 4, 11, records=ranges)
    assert distribution.results(requests, update, 5) == [
        Allocation(1, 5, replayed=True),
        Allocation(11, 5),
        reused,
        Allocation(14, 5),
        Allocation(16, 5),
    ]


@given(SIZES, st.integers(0, 10**7))
def test_what_fits_into_a_counter_is_first_come_first_served(
    sizes: list[int], available: int
) -> None:
    """A request is refused only where it does not fit behind those before it."""
    requests = [request(size) for size in sizes]
    fit, errors = distribution.fitting(requests, available)
    assert [one for one in requests if one in fit or one in errors] == requests
    assert len(fit) + len(errors) == len(requests)
    for one in requests:
        if one in errors:
            assert (errors[one].count, errors[one].available) == (one.count, available)
            assert one.count > available
        else:
            available -= one.count
    assert available >= 0


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 1000))))
def test_a_high_water_mark_only_ever_increases(raised: list[tuple[str, int]]) -> None:
    """Whatever it is raised to; and 1 is none."""
    marks = HighWaterMarks()
    highest: dict[str, int] = {}
    for counter, next_id in raised:
        before = marks.snapshot()
        marks.raise_to(counter, next_id)
        highest[counter] = max(next_id, highest.get(counter, 1))
        assert all(marks[name] >= mark for name, mark in before.items())
    assert marks == {name: mark for name, mark in highest.items() if mark > 1}


def test_marks_are_raised_by_one_thread_and_read_by_others() -> None:
    """A snapshot is taken while the marks grow."""
    marks = HighWaterMarks()
    done = threading.Event()

    def grow() -> None:
        for number in range(20_000):
            marks.raise_to(f"mode{number}", 2)
        done.set()

    with ThreadPoolExecutor(1) as pool:
        growing = pool.submit(grow)
        while not done.is_set():
            assert set(marks.snapshot().values()) <= {2}
            assert set(marks.values()) <= {2}
        growing.result(30)
    assert len(marks) == 20_000


def test_a_queue_is_bounded_and_its_batches_too() -> None:
    """Requests leave it in the order in which they came."""
    queue = RequestQueue(max_length=5, batch_size=2)
    requests = [request(number + 1) for number in range(5)]
    for one in requests:
        queue.put(one)
    with pytest.raises(Overloaded, match="5 requests"):
        queue.put(request(1))
    taken = []
    while (batch := queue.take()) is not None:
        taken.append(batch.requests)
    assert taken == [requests[:2], requests[2:4], requests[4:]]
    assert len(queue) == 0


def test_a_closed_queue_keeps_what_it_has() -> None:
    """It is drained when that was taken."""
    queue = RequestQueue(max_length=5, batch_size=2)
    queue.put(request(1))
    queue.close()
    with pytest.raises(Closing):
        queue.put(request(1))
    queue.wait(None)
    assert not queue.drained
    assert queue.take() is not None
    assert queue.drained


def test_an_interrupt_before_the_wait_is_not_lost() -> None:
    """It ends the next wait, and no other."""
    queue = RequestQueue(max_length=5, batch_size=2)
    queue.interrupt()
    queue.wait(None)
    queue.wait(0.01)
    assert queue.take() is None


def test_a_key_that_another_request_uses_is_in_flight() -> None:
    """While that lasts; and only an unavailable database makes it an error."""
    keys = KeysInFlight()
    identity = ("a key of the client", "")
    for _ in range(2):
        with keys.serving(identity):
            with keys.serving(identity):
                pass
            with pytest.raises(KeyInFlight), keys.serving(identity):
                raise DatabaseUnavailable("gone")
        with pytest.raises(DatabaseUnavailable), keys.serving(identity):
            raise DatabaseUnavailable("gone")


def test_as_many_blocked_callers_are_rejected_as_have_to_be() -> None:
    """One by one, down to the limit."""
    shedding = LoadShedding(2)
    requests = [request(1) for _ in range(4)]
    for one in requests:
        shedding.add(one)
    rejected = []
    for one in requests:
        try:
            shedding.reject_excess(one)
        except Overloaded:
            rejected.append(one)
    assert rejected == requests[:2]
    assert [one.abandoned for one in requests] == [True, True, False, False]
    assert len(shedding) == 2


def test_a_request_that_moves_to_another_batch_is_woken_by_that(clock: Clock) -> None:
    """The first batch's end is not its own."""
    queue = RequestQueue(max_length=5, batch_size=2)
    moved = request(1)
    queue.put(moved)
    batch = queue.take()
    assert batch is not None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(moved.wait, clock() + 30, clock)
        other = queue.new_batch()
        other.add(moved)
        batch.wake_all()
        moved.complete(Allocation(1, 1))
        other.wake_all()
        assert waiting.result(30)
    assert moved.result() == Allocation(1, 1)


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)
