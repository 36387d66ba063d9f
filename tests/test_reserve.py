"""Reserved IDs: what a block gives, when it is given up, and what is given back at the end."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes import Clock, FakeStore
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import wait_until

from uniqueid.allocator import Allocator
from uniqueid.config import load
from uniqueid.entries import Entry
from uniqueid.errors import (
    MAX_ID,
    Closing,
    CounterExhausted,
    CounterRegressed,
    DatabaseUnavailable,
    ModeBusy,
    Unexpected,
)
from uniqueid.fence import FencedStore, Mark, read
from uniqueid.metrics import Metrics
from uniqueid.reserve import LEASE, Blocks

N = 100


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def blocks(clock: Clock) -> Blocks:
    """With a block of 1 to 100."""
    blocks = Blocks(N, clock=clock)
    assert filled(blocks, 1, 0) == 1
    return blocks


def filled(
    blocks: Blocks, first: int, total: int, mode: str = "file", counter: str = "file"
) -> int:
    """A transaction for `total` IDs, whose counter is found at `first`; where they begin."""
    asked = blocks.ask(mode, total)
    start = blocks.settle(mode, counter, first, asked, total)
    blocks.circulate()
    assert start is not None
    return start


# -- the blocks -------------------------------------------------------------------------------


def test_a_block_is_taken_from_its_first_id_to_its_last(blocks: Blocks) -> None:
    """Each ID once; what does not fit, and another mode, is None."""
    assert [blocks.take("file", 60), blocks.take("file", 41), blocks.take("other", 1)] == [
        1,
        None,
        None,
    ]
    assert [blocks.take("file", 39), blocks.take("file", 1), blocks.take("file", 1)] == [
        61,
        100,
        None,
    ]


def test_what_is_left_goes_out_with_the_next_transaction(blocks: Blocks) -> None:
    """Where its IDs adjoin, the counter is moved on by as much as fills the block again."""
    blocks.take("file", 95)
    assert blocks.ask("file", 10) == 10 + N - 5
    assert blocks.settle("file", "file", 101, 105, 10) == 96
    blocks.circulate()
    assert blocks.left == N
    assert blocks.take("file", N) == 106


def test_what_is_left_is_a_gap_where_somebody_has_moved_the_counter(blocks: Blocks) -> None:
    """Later IDs stay higher."""
    blocks.take("file", 95)
    assert filled(blocks, 500, 10) == 500
    assert blocks.take("file", 1) == 510
    assert blocks.left == 94


def test_nobody_takes_of_a_block_during_its_transaction(blocks: Blocks) -> None:
    """What it has may go to those who wait; after one that was refused it is there again."""
    blocks.ask("file", 101)
    assert blocks.take("file", 1) is None
    blocks.circulate()
    assert blocks.take("file", 1) == 1


def test_a_block_is_used_only_for_a_while_after_the_database_was_heard_of(
    blocks: Blocks, clock: Clock
) -> None:
    """Then a transaction has to tell whether it still counts."""
    clock.now += LEASE - 0.01
    assert blocks.take("file", 1) == 1
    clock.now += 0.01
    assert blocks.take("file", 1) is None
    assert filled(blocks, 101, 1) == 2
    assert blocks.take("file", 1) == 3


def test_a_look_at_the_counters_prolongs_it(blocks: Blocks, clock: Clock) -> None:
    """Counted from before the question."""
    since = clock.now = clock.now + 4
    clock.now += 4
    blocks.looked({"file": 101}, since)
    assert blocks.take("file", 1) == 1
    clock.now = since + LEASE
    assert blocks.take("file", 1) is None


def test_a_counter_that_an_operator_has_moved_ends_its_block(blocks: Blocks, clock: Clock) -> None:
    """Nobody else used it."""
    blocks.looked({"file": 5000}, clock.now)
    assert blocks.take("file", 1) is None
    assert blocks.close() == {}


def test_a_counter_that_another_service_moves_keeps_its_block(blocks: Blocks, clock: Clock) -> None:
    """It moves all the time; once it stands still again, a move is an operator's."""
    blocks.take("file", N)
    filled(blocks, 500, 1)
    blocks.looked({"file": 5000}, clock.now)
    assert blocks.take("file", N) == 501
    filled(blocks, 601, 1)
    blocks.looked({"file": 5000}, clock.now)
    assert blocks.take("file", 1) is None


def test_what_is_dropped_is_given_to_nobody(blocks: Blocks) -> None:
    """Not what was left over, nor what was held for a transaction, nor back to the database."""
    blocks.take("file", 50)
    blocks.ask("file", 200)
    blocks.drop()
    assert blocks.settle("file", "file", 101, 250, 200) == 101
    blocks.drop()
    blocks.circulate()
    assert blocks.take("file", 1) is None
    assert blocks.close() == {}


def test_what_is_left_at_the_end_is_told_once(blocks: Blocks) -> None:
    """With the counter at which it may be given back; nobody takes any of it then."""
    blocks.take("file", 40)
    filled(blocks, 1, 5, "other", "other")
    assert blocks.close() == {"file": (41, 101), "other": (6, 106)}
    assert blocks.take("file", 1) is None
    assert blocks.close() == {}


def test_two_spellings_of_one_counter_share_its_block(blocks: Blocks) -> None:
    """Where the database does not tell them apart."""
    assert filled(blocks, 101, 10, "FILE", "file") == 101
    assert blocks.take("FILE", 5) == 111
    assert blocks.take("file", 5) == 116
    assert blocks.close() == {"file": (121, 211)}


def test_two_spellings_in_one_transaction_keep_the_higher_ids(blocks: Blocks) -> None:
    """The lower ones are a gap."""
    blocks.take("file", N)
    filled(blocks, 101, 1, "FILE", "file")
    blocks.take("file", N)
    asked = {mode: blocks.ask(mode, 50) for mode in ("file", "FILE")}
    lower = blocks.settle("FILE", "file", 202, asked["FILE"], 50)
    higher = blocks.settle("file", "file", 202 + asked["FILE"], asked["file"], 50)
    blocks.circulate()
    assert lower is not None
    assert higher is not None
    taken = blocks.take("file", 1)
    assert taken is not None
    assert taken >= higher + 50 > lower + 50


# -- the allocator ----------------------------------------------------------------------------


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def allocator(store: FakeStore) -> Iterator[Allocator]:
    allocator = Allocator(store, request_timeout=30, reserve=N)
    yield allocator
    store.gate.set()
    store.ping_error = None
    assert allocator.close(30)


@pytest.fixture
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uniqueid.allocator.LOOK", 0.02)


def test_one_transaction_serves_the_requests_of_a_block(
    allocator: Allocator, store: FakeStore
) -> None:
    """The IDs are those that they would be without, and `batch` says that none was needed."""
    facts: dict[str, object] = {}
    assert [allocator.allocate("file", 1, facts) for _ in range(N + 1)] == list(range(1, N + 2))
    assert store.transactions == [{"file": N + 1}]
    assert facts == {"batch": 0}
    assert allocator.allocate("file", 1, facts) == N + 2
    assert store.transactions == [{"file": N + 1}, {"file": N + 1}]
    assert facts == {"batch": 1}
    assert allocator.reserved == N


def test_the_database_has_a_block_before_anybody_gets_an_id_of_it(
    allocator: Allocator, store: FakeStore
) -> None:
    """So has the guard: it covers what is reserved."""
    allocator.allocate("file", 7)
    assert store.values == {"file": N + 8}
    assert allocator.floors == {"file": N + 8}


def test_nobody_is_met_from_a_block_whose_commit_is_under_way(
    allocator: Allocator, store: FakeStore
) -> None:
    """While the transaction is held up there is no answer."""
    store.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(allocator.allocate, "file", 1) for _ in range(2)]
        assert store.arrived.acquire(timeout=30)
        assert not any(call.done() for call in calls)
        store.gate.set()
        assert sorted(call.result(30) for call in calls) == [1, 2]


def test_a_request_larger_than_a_block_has_a_range_in_one_piece(
    allocator: Allocator, store: FakeStore
) -> None:
    """And no gap before or after it."""
    assert [allocator.allocate("file", count) for count in (1, 5000, 1, 99, 2)] == [
        1,
        2,
        5002,
        5003,
        5102,
    ]
    assert store.transactions == [{"file": N + 1}, {"file": 5000}, {"file": N + 2}]


@given(
    counts=st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 30)), min_size=1, max_size=40),
    size=st.integers(1, 40),
)
@settings(deadline=None, max_examples=60)
def test_one_service_alone_leaves_no_gap(counts: list[tuple[str, int]], size: int) -> None:
    """Whatever is asked for, in whatever sizes, and after a clean stop the counter is exact."""
    store = FakeStore()
    allocator = Allocator(store, reserve=size)
    expected = {"a": 1, "b": 1}
    for mode, count in counts:
        assert allocator.allocate(mode, count) == expected[mode]
        expected[mode] += count
    assert allocator.close(30)
    assert store.values == {mode: expected[mode] for mode in store.values}


def test_many_threads_get_disjoint_ranges_of_many_modes(store: FakeStore) -> None:
    """With a thread changing at every moment; each mode without a gap."""
    allocator = Allocator(store, reserve=10, request_timeout=30)
    modes = [f"mode {number}" for number in range(5)]

    def client(number: int) -> list[tuple[str, int, int]]:
        got = []
        for step in range(100):
            mode, count = modes[(number + step) % len(modes)], 1 + (number + step) % 4
            first = allocator.allocate(mode, count)
            got.append((mode, first, count))
        return got

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(16) as pool:
            got = [item for result in pool.map(client, range(16)) for item in result]
    finally:
        sys.setswitchinterval(interval)
    assert allocator.close(30)
    for mode in modes:
        expected = 1
        for _mode, first, count in sorted(item for item in got if item[0] == mode):
            assert first == expected
            expected += count
        assert store.values[mode] == expected
    assert len(store.transactions) < len(got) / 2


def test_the_last_ids_of_a_counter_can_all_be_had(allocator: Allocator, store: FakeStore) -> None:
    """Where a block would not fit any more, the rest is one; then the error has its facts."""
    store.values["a"] = MAX_ID - 9
    assert allocator.allocate("a", 4) == MAX_ID - 9
    assert store.values["a"] == MAX_ID + 1
    with pytest.raises(CounterExhausted, match=r"has 6 IDs left up to .* and 7 were"):
        allocator.allocate("a", 7)
    assert allocator.allocate("a", 5) == MAX_ID - 5
    assert allocator.allocate("a", 1) == MAX_ID
    with pytest.raises(CounterExhausted, match="has 0 IDs left"):
        allocator.allocate("a", 1)


def test_the_end_of_a_counter_that_somebody_else_moves_too(
    allocator: Allocator, store: FakeStore
) -> None:
    """What is left of a block no longer adjoins, and the error counts what can be had."""
    store.values["a"] = MAX_ID - 199
    assert allocator.allocate("a", 1) == MAX_ID - 199
    store.values["a"] = MAX_ID - 1
    with pytest.raises(CounterExhausted, match=r"has 2 IDs left up to .* and 101 were"):
        allocator.allocate("a", N + 1)
    assert allocator.allocate("a", 2) == MAX_ID - 1


def test_a_locked_counter_keeps_its_block(allocator: Allocator, store: FakeStore) -> None:
    """Small requests go on while a large one waits."""
    assert allocator.allocate("a", 1) == 1
    store.outcomes["a"] = ModeBusy("a")
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(allocator.allocate, "a", N + 1)
        wait_until(lambda: len(store.transactions) >= 2, "the lock being met")
        wait_until(lambda: allocator.reserved == N, "the block being there again")
        assert allocator.allocate("a", 1) == 2
        del store.outcomes["a"]
        assert large.result(30) == 3


def test_a_database_that_is_away_takes_the_blocks_along(
    allocator: Allocator, store: FakeStore
) -> None:
    """It may be another one when it is back: what was reserved is a gap."""
    assert allocator.allocate("file", 1) == 1
    store.errors = [DatabaseUnavailable("gone")]
    with pytest.raises(DatabaseUnavailable):
        allocator.allocate("other", 1)
    assert allocator.reserved == 0
    wait_until(lambda: allocator.down is None, "the database answering")
    assert allocator.allocate("file", 1) == N + 2


def test_while_the_database_is_known_to_be_away_nothing_is_handed_out(
    allocator: Allocator, store: FakeStore
) -> None:
    """Of any mode."""
    assert allocator.allocate("file", 1) == 1
    store.ping_error = DatabaseUnavailable("gone")
    store.errors = [DatabaseUnavailable("gone")]
    with pytest.raises(DatabaseUnavailable):
        allocator.allocate("other", 1)
    with pytest.raises(DatabaseUnavailable):
        allocator.allocate("file", 1)


def test_an_unexpected_error_takes_the_blocks_along(allocator: Allocator, store: FakeStore) -> None:
    """Nobody knows what it has left behind."""
    assert allocator.allocate("file", 1) == 1
    store.errors = [ZeroDivisionError()]
    with pytest.raises(Unexpected):
        allocator.allocate("other", 1)
    assert allocator.allocate("file", 1) == N + 2


def test_another_session_takes_the_blocks_along(allocator: Allocator, store: FakeStore) -> None:
    """Another service may have had the same IDs from the server that it leads to."""
    assert allocator.allocate("file", 1) == 1
    store.connections += 1
    assert allocator.allocate("other", 1) == 1
    assert allocator.allocate("file", 1) == N + 2
    assert allocator.allocate("other", 1) == 2, "it was reserved on the new session"


def test_a_counter_that_went_back_takes_all_blocks_along(
    allocator: Allocator, store: FakeStore
) -> None:
    """Also when another one shows it; each goes on above what was reserved of it."""
    assert [allocator.allocate(mode, 1) for mode in ("file", "other")] == [1, 1]
    store.values = {"file": 1, "other": 1}
    assert allocator.allocate("file", N + 1) == N + 2
    wait_until(lambda: store.values["other"] == N + 2, "the other counter being raised")
    assert allocator.allocate("other", 1) == N + 2


@pytest.mark.usefixtures("_look_often")
@pytest.mark.parametrize("repair", [True, False])
def test_a_counter_that_went_back_is_noticed_without_a_transaction(
    store: FakeStore, repair: bool
) -> None:
    """Raised above what was reserved, or refused: from the block comes nothing any more."""
    allocator = Allocator(store, request_timeout=30, reserve=N, repair=repair)
    assert allocator.allocate("file", 1) == 1
    store.values["file"] = 5
    if repair:
        wait_until(lambda: store.values["file"] == N + 2, "the counter being raised")
        assert allocator.allocate("file", 1) == N + 2
    else:
        wait_until(lambda: allocator.regressed, "the counter being found")
        with pytest.raises(CounterRegressed, match=f"advance it to {N + 2}"):
            allocator.allocate("file", 1)
        store.values["file"] = N + 2
        wait_until(lambda: not allocator.regressed, "the counter being found mended")
        assert allocator.allocate("file", 1) == N + 2
    assert allocator.close(30)


@pytest.mark.usefixtures("_look_often")
def test_an_operators_advance_takes_effect_without_a_transaction(
    allocator: Allocator, store: FakeStore
) -> None:
    """The block below it is given up."""
    assert allocator.allocate("file", 1) == 1
    store.values["file"] = 5000
    wait_until(lambda: allocator.reserved == 0, "the block being given up")
    assert allocator.allocate("file", 1) == 5000


@pytest.mark.usefixtures("_look_often")
def test_a_database_that_is_away_is_noticed_without_a_transaction(
    allocator: Allocator, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the look at the counters."""
    assert allocator.allocate("file", 1) == 1
    store.ping_error = gone = DatabaseUnavailable("gone")

    def counters() -> dict[str, int]:
        raise gone

    monkeypatch.setattr(store, "counters", counters)
    wait_until(lambda: allocator.down is not None, "the outage being noticed")
    assert allocator.reserved == 0


def entry(mode: str, number: int = 0) -> Entry:
    return Entry(mode, 5, "a key of 16 octets", request_id=str(number), expires=2**60)


def test_a_mode_with_a_key_is_served_without_a_block(
    allocator: Allocator, store: FakeStore
) -> None:
    """Later IDs stay higher, at the price of what was reserved when the first key came."""
    assert allocator.allocate("file", 1) == 1
    assert allocator.allocate("file", 5, entry=entry("file")) == N + 2
    assert allocator.allocate("file", 1) == N + 7
    assert allocator.allocate("file", 1) == N + 8
    assert allocator.allocate("other", 1) == 1
    assert allocator.reserved == N
    assert store.values["file"] == N + 9


def test_a_replay_claims_no_more_than_it_repeats(store: FakeStore) -> None:
    """What is above, another process has reserved, and may give back: that is no going back."""
    one, other = Allocator(store, reserve=N), Allocator(store, repair=False)
    assert one.allocate("file", 5, entry=entry("file")) == 1
    assert one.close(30)
    one = Allocator(store, reserve=N)
    assert one.allocate("file", 1) == 6
    again = entry("file", 1)
    assert other.allocate("file", 5, entry=again) == 1
    assert again.replayed
    assert one.close(30)
    assert store.values == {"file": 7}
    assert other.floors == {"file": 6}
    assert other.allocate("file", 1) == 7
    assert other.close(30)


# -- the end ----------------------------------------------------------------------------------


def test_a_clean_stop_gives_back_what_is_left(
    allocator: Allocator, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The counters are where they would be without; the log says of how many."""
    for mode, count in (("a", 3), ("b", 4), ("a", 5)):
        allocator.allocate(mode, count)
    with caplog.at_level(logging.INFO, "uniqueid"):
        assert allocator.close(30)
    assert store.values == {"a": 9, "b": 5}
    assert "reserved IDs given back" in caplog.text
    with pytest.raises(Closing):
        allocator.allocate("a", 1)


def test_who_waits_at_the_stop_is_answered_without_a_gap(store: FakeStore) -> None:
    """What was left of the block goes on in front, and no new one is reserved."""
    allocator = Allocator(store, request_timeout=30, reserve=N)
    allocator.allocate("a", 1)
    store.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        held = pool.submit(allocator.allocate, "b", 1)
        assert store.arrived.acquire(timeout=30)
        assert store.arrived.acquire(timeout=30)
        large = pool.submit(allocator.allocate, "a", N + 1)
        wait_until(lambda: allocator.waiting == 1, "a caller waiting")
        closed = pool.submit(allocator.close, 30)
        wait_until(allocator._closing.is_set, "the close")
        store.gate.set()
        assert [held.result(30), large.result(30)] == [1, 2]
        assert closed.result(30)
    assert store.transactions[-1] == {"a": N + 1}
    assert store.values == {"a": N + 3, "b": 2}


def test_nothing_is_given_back_of_a_counter_that_somebody_has_moved(
    allocator: Allocator, store: FakeStore
) -> None:
    """The others go back."""
    allocator.allocate("a", 1)
    allocator.allocate("b", 1)
    store.values["a"] += 1
    assert allocator.close(30)
    assert store.values == {"a": N + 3, "b": 2}


def test_a_stop_that_cannot_give_back_leaves_a_gap_and_says_so(
    allocator: Allocator, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """And it ends all the same."""
    allocator.allocate("a", 1)
    store.errors = [DatabaseUnavailable("gone")]
    assert allocator.close(30)
    assert store.values == {"a": N + 2}
    assert "were not given back and are a gap: " in caplog.text
    assert "Traceback" not in caplog.text


def test_after_an_outage_nothing_is_given_back(allocator: Allocator, store: FakeStore) -> None:
    """Another process may have had the same IDs from an older copy of the database."""
    allocator.allocate("a", 1)
    store.errors = [DatabaseUnavailable("gone")]
    with pytest.raises(DatabaseUnavailable):
        allocator.allocate("b", 1)
    assert allocator.close(30)
    assert store.values == {"a": N + 2}


def test_nobody_takes_an_id_that_is_being_given_back(store: FakeStore) -> None:
    """While that transaction is held up, requests are refused."""
    allocator = Allocator(store, reserve=N)
    allocator.allocate("a", 1)
    giving = threading.Event()
    give_back = store.give_back

    def told(*arguments: object, **options: object) -> int:
        giving.set()
        return give_back(*arguments, **options)  # type: ignore[arg-type]

    store.give_back = told  # type: ignore[method-assign]
    store.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        closed = pool.submit(allocator.close, 30)
        assert giving.wait(30)
        with pytest.raises(Closing):
            allocator.allocate("a", 1)
        store.gate.set()
        assert closed.result(30)
    assert store.values == {"a": 2}


def test_the_fence_covers_a_block_and_comes_down_before_the_counter(
    store: FakeStore, tmp_path: object
) -> None:
    """What a crash leaves in between is above the fence: nothing to tell, and no ID twice."""
    path = f"{tmp_path}/fence.json"
    fence = FencedStore(store, path, window=10)
    allocator = Allocator(fence, floors=fence.floors, reserve=N)
    assert allocator.allocate("file", 1) == 1
    assert read(path)["file"].bound >= N + 2
    give_back = store.give_back
    seen: list[dict[str, Mark]] = []

    def told(*arguments: object, **options: object) -> int:
        assert store.values == {"file": N + 2}
        seen.append(read(path))
        return give_back(*arguments, **options)  # type: ignore[arg-type]

    store.give_back = told  # type: ignore[method-assign]
    assert allocator.close(30)
    assert seen == [{"file": Mark(2, 2)}]
    assert read(path) == {"file": Mark(2, 2)}
    assert store.values == {"file": 2}
    again = FencedStore(store, path, window=10)
    allocator = Allocator(again, floors=again.floors, reserve=N, repair=False)
    assert allocator.allocate("file", 1) == 2
    assert allocator.close(30)


def test_a_replay_behind_the_fence_claims_no_more_than_it_repeats(
    store: FakeStore, tmp_path: object
) -> None:
    """Its file does not say that what another process has reserved was handed out."""
    path = f"{tmp_path}/fence.json"
    one = Allocator(store, reserve=N)
    assert one.allocate("file", 5, entry=entry("file")) == 1
    fence = FencedStore(store, path, window=10)
    fence._write({"file": Mark(1, 1)}) if fence._lock.take() else None
    fence._lock.release()
    other = Allocator(fence, floors=fence.floors)
    store.values["file"] = 200
    assert other.allocate("file", 5, entry=entry("file", 1)) == 1
    assert other.close(30)
    assert read(path) == {"file": Mark(6, 6)}
    assert one.close(30)


# -- what is told -----------------------------------------------------------------------------


def test_what_comes_from_a_block_is_counted(store: FakeStore) -> None:
    """As requests and IDs of its mode, from many threads; the rest is a gauge."""
    metrics = Metrics()
    allocator = Allocator(store, reserve=1000, observer=metrics)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _number: allocator.allocate("file", 2), range(400)))
    assert metrics.tallies["file"].allocations == 400
    assert metrics.tallies["file"].ids == 800
    assert metrics.tallies["file"].next_id == 801
    assert allocator.reserved == store.values["file"] - 801
    assert allocator.close(30)


def test_reserve_and_a_journal_of_everything_are_warned_about() -> None:
    """One line that names both, with where the first was set."""
    configuration = load(environ={"UNIQUEID_RESERVE": "7", "UNIQUEID_JOURNAL": "on"})
    (warning,) = configuration.warnings
    assert warning.startswith("[uniqueid] reserve = 7 (UNIQUEID_RESERVE) has no effect")
    assert load(environ={"UNIQUEID_RESERVE": "7"}).warnings == ()
