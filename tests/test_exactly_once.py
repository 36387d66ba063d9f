"""Requests with an idempotency key, from the header to the committer, on a store without a
database; tests/databases/test_journal.py has the real ones."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from fakes import FakeAllocator, FakeStore
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import wait_until
from web import Response, call

from uniqueid import errors
from uniqueid.allocation.allocator import Allocator
from uniqueid.errors import (
    MAX_ID,
    CounterExhausted,
    DatabaseUnavailable,
    JournalMissing,
    KeyInFlight,
    KeyReused,
)
from uniqueid.model import Allocation, AllocationRecord
from uniqueid.monitoring.metrics import Metrics
from uniqueid.web.app import make_app
from uniqueid.web.auth import Tokens
from uniqueid.web.getid import RetentionPolicy
from uniqueid.web.parameters import Limits

KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"


def entry(mode: str, size: int, key: str | None = KEY) -> AllocationRecord:
    return AllocationRecord(mode, size, key, request_id=str(random.random()))


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def allocator(store: FakeStore, metrics: Metrics) -> Iterator[Allocator]:
    allocator = Allocator(store, request_timeout=30, observer=metrics)
    yield allocator
    store.gate.set()
    assert allocator.close(30)


class ConcurrentCallers:
    """Callers who wait, one behind the other, with the committer held up."""

    def __init__(self, allocator: Allocator, store: FakeStore, pool: ThreadPoolExecutor) -> None:
        self.allocator = allocator
        self.pool = pool
        store.gate.clear()
        while store.arrived.acquire(blocking=False):
            pass
        self.first = pool.submit(allocator.allocate, "first", 1)
        assert store.arrived.acquire(timeout=30)

    def request(
        self, mode: str, size: int, one: AllocationRecord | None = None
    ) -> Future[Allocation]:
        before = self.allocator.waiting
        future = self.pool.submit(self.allocator.allocate, mode, size, one)
        wait_until(lambda: self.allocator.waiting > before, "a caller waiting")
        return future


# -- the committer -----------------------------------------------------------------------------


def test_requests_with_and_without_keys_share_one_transaction(
    allocator: Allocator, store: FakeStore, metrics: Metrics
) -> None:
    """One allocation for a key that is there twice, also when it had been there before."""
    assert allocator.allocate("a", 5, entry("a", 5, "an older key....")).first == 1
    with ThreadPoolExecutor(16) as pool:
        callers = ConcurrentCallers(allocator, store, pool)
        plain = [callers.request("a", 3), callers.request("b", 2)]
        entries = [entry("a", 10), entry("a", 10), entry("a", 5, "an older key....")]
        keyed = [callers.request("a", one.count, one) for one in entries]
        other = callers.request("a", 9, entry("a", 9))
        last = callers.request("a", 4, entry("a", 4, None))
        store.gate.set()
        assert [future.result(30).first for future in plain] == [6, 1]
        ranges = [(future.result(30).first, future.result(30).replayed) for future in keyed]
        assert ranges == [(9, False), (9, True), (1, True)]
        with pytest.raises(KeyReused, match="with range 10 and mode 'a': send a new key"):
            other.result(30)
        assert last.result(30).first == 19
    assert store.transactions[2:] == [{"a": 3 + 10 + 10 + 5 + 9 + 4, "b": 2}]
    assert store.values == {"a": 23, "b": 3, "first": 2}
    assert allocator.high_water_marks == {"a": 23, "b": 3, "first": 2}
    assert allocator.allocate("a", 1).first == 23
    text = metrics.render().decode()
    assert "uniqueid_replays_total 2.0" in text
    assert 'uniqueid_ids_total{mode="a"} 23.0' in text
    assert 'uniqueid_allocations_total{mode="a"} 5.0' in text


def test_at_the_end_of_a_counter_replays_are_met_and_the_rest_as_far_as_it_fits(
    allocator: Allocator, store: FakeStore
) -> None:
    """First come, first served, and who had its range before needs none."""
    store.values["a"] = MAX_ID - 9
    assert allocator.allocate("a", 4, entry("a", 4)).first == MAX_ID - 9
    with ThreadPoolExecutor(8) as pool:
        callers = ConcurrentCallers(allocator, store, pool)
        large = callers.request("a", 7)
        replay = callers.request("a", 4, entry("a", 4))
        fits = callers.request("a", 6, entry("a", 6, "another key....."))
        late = callers.request("a", 1)
        store.gate.set()
        for refused in (large, late):
            with pytest.raises(CounterExhausted):
                refused.result(30)
        assert (replay.result(30).first, fits.result(30).first) == (MAX_ID - 9, MAX_ID - 5)


def test_a_key_without_an_answer_is_in_flight(store: FakeStore) -> None:
    """Who sends it again meanwhile waits, and hears at the deadline that the first is not done."""
    allocator = Allocator(store, request_timeout=0.5)
    store.gate.clear()
    try:
        with ThreadPoolExecutor(3) as pool:
            first = pool.submit(allocator.allocate, "a", 1, entry("a", 1))
            assert store.arrived.acquire(timeout=30)
            second = pool.submit(allocator.allocate, "a", 1, entry("a", 1))
            wait_until(lambda: allocator.waiting == 1, "the second waiting")
            other = pool.submit(allocator.allocate, "a", 1, entry("a", 1, "another key....."))
            with pytest.raises(KeyInFlight, match=KEY):
                second.result(30)
            for unmet in (first, other):
                with pytest.raises(DatabaseUnavailable):
                    unmet.result(30)
            store.gate.set()
            wait_until(lambda: allocator.unavailable is None, "the database answering")
            # The first was met after all, and that is what the key gets from now on.
            assert allocator.allocate("a", 1, entry("a", 1)) == Allocation(1, 1, replayed=True)
    finally:
        store.gate.set()
        assert allocator.close(30)


def test_without_the_table_requests_without_an_entry_are_met(
    allocator: Allocator, store: FakeStore
) -> None:
    """Those with one are told what to do."""
    advance = store.advance

    def without_table(*arguments: object, **options: object) -> object:
        if options["records"]:
            raise JournalMissing
        return advance(*arguments, **options)  # type: ignore[arg-type]

    store.advance = without_table  # type: ignore[method-assign, assignment]
    with ThreadPoolExecutor(8) as pool:
        callers = ConcurrentCallers(allocator, store, pool)
        keyed, plain = callers.request("a", 5, entry("a", 5)), callers.request("a", 3)
        store.gate.set()
        assert plain.result(30).first == 1
        with pytest.raises(JournalMissing, match="dbsync"):
            keyed.result(30)


def test_old_entries_are_deleted_between_transactions(metrics: Metrics) -> None:
    """Again and again while there are some, then once a minute; a failure changes nothing."""
    left = [1000, 1000, 7]
    asked = threading.Semaphore(0)
    failing = threading.Event()

    def prune() -> int:
        asked.release()
        if failing.is_set():
            raise DatabaseUnavailable("gone")
        return left.pop(0) if left else 0

    now = [0.0]
    store = FakeStore()
    allocator = Allocator(store, prune=prune, observer=metrics, clock=lambda: now[0])

    def pruned_after(seconds: float) -> int:
        """How often, once two more requests were answered."""
        now[0] += seconds
        allocator.allocate("a", 1)
        allocator.allocate("a", 1)
        times = 0
        while asked.acquire(blocking=False):
            times += 1
        return times

    # By the clock of the test no time goes by, so all steps follow each other at once.
    now[0] += 60
    allocator.allocate("a", 1)
    for _step in range(4):
        assert asked.acquire(timeout=30)
    assert pruned_after(20) == 0
    assert "uniqueid_journal_pruned_rows_total 2007.0" in metrics.render().decode()
    failing.set()
    assert pruned_after(60) == 1
    assert pruned_after(20) == 0
    assert allocator.unavailable is None
    assert allocator.allocate("a", 1).first == 8
    assert allocator.close(30)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["", "before", "after"])),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 8),
    st.integers(1, 20),
)
def test_whatever_happens_a_key_gets_one_range(
    requests: list[tuple[int, str]], threads: int, batch_size: int
) -> None:
    """Any interleaving of requests, with transactions that fail before their COMMIT or behind it,
    sent again until they are met: one range for a key, and no ID in two."""
    store = FakeStore()
    store.errors = [DatabaseUnavailable("before") for _key, fault in requests if fault == "before"]
    store.errors_after_commit = [
        DatabaseUnavailable("after") for _key, fault in requests if fault == "after"
    ]
    allocator = Allocator(store, batch_size=batch_size, request_timeout=30)
    barrier = threading.Barrier(threads)

    def client(number: int) -> list[tuple[int, int]]:
        barrier.wait(30)
        got = []
        for key, _fault in requests[number::threads]:
            while True:
                one = entry("ab"[key % 2], key + 1, f"key {key}".ljust(16))
                try:
                    got.append((key, allocator.allocate(one.mode, one.count, one).first))
                    break
                except (DatabaseUnavailable, KeyInFlight):
                    continue
        return got

    with ThreadPoolExecutor(threads) as pool:
        got = {item for found in pool.map(client, range(threads)) for item in found}
    assert allocator.close(30)
    assert len(got) == len({key for key, _first in got})
    for mode in "ab":
        # Each key is in the order of its first: they tile the counter, which has no gap.
        expected = 1
        for key, first in sorted(got, key=lambda item: item[1]):
            if "ab"[key % 2] == mode:
                assert first == expected
                expected += key + 1
        assert store.values.get(mode, 1) == expected


# -- HTTP --------------------------------------------------------------------------------------


@pytest.fixture
def app(allocator: Allocator, metrics: Metrics) -> object:
    return make_app(allocator, Limits(), metrics=metrics)


def get_range(app: object, key: str | None = KEY, size: int = 10, **headers: str) -> Response:
    named = {f"HTTP_{name}": value for name, value in headers.items()}
    if key is not None:
        named["HTTP_IDEMPOTENCY_KEY"] = key
    return call(app, "POST", f"/getid?range={size}&mode=file", **named)


def test_a_request_that_is_repeated_gets_the_same_answer(app: object) -> None:
    """With a header that says so; a key in quotes is the same key."""
    first = get_range(app)
    assert (first.status, first.json) == (200, {"startIndex": 1, "endIndex": 10})
    assert "Idempotency-Replayed" not in first.headers
    for spelled in (KEY, f'"{KEY}"', f' "{KEY}" '):
        again = get_range(app, spelled)
        assert again.json == first.json
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.headers["Cache-Control"].startswith("no-store")
    assert (
        call(app, "GET", "/getid?range=10&mode=file", HTTP_IDEMPOTENCY_KEY=KEY).json == first.json
    )
    assert get_range(app, None).json["startIndex"] == 11
    nonce = call(app, "GET", "/getid?range=10&mode=file&nonce=n1", HTTP_IDEMPOTENCY_KEY=KEY)
    assert nonce.json == {"startIndex": 1, "endIndex": 10, "nonce": "n1"}


def test_another_request_with_the_key_is_a_422(app: object) -> None:
    """A problem document which names what the key stands for."""
    get_range(app)
    refused = get_range(app, size=11)
    assert refused.status == 422
    assert refused.json["type"] == "idempotency-key-reused"
    assert "range 10 and mode 'file'" in refused.json["detail"]


@pytest.mark.parametrize(
    "key",
    [
        "x" * 16,
        "x" * 128,
        '"' + "x" * 128 + '"',
        '"blanks, commas; and \\"quotes\\" \\\\"',
        "base64+/=~!#$%&'()*;<>?@[]^_`{|}",
    ],
)
def test_keys_that_can_be_used(app: object, key: str) -> None:
    """16 to 128 printable ASCII characters, with quotes around or without."""
    assert get_range(app, key).status == 200
    assert get_range(app, key).headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize(
    "key",
    ["", "x" * 15, "x" * 129, '"' + "x" * 15 + '"', f'"{KEY}', f"{KEY}, {KEY}", f'"{KEY}";a=1']
    + [f"{KEY} {KEY}", "schlüssel-schlüssel", f'"{KEY}\\x"', "x" * 15 + "\t" + "x"],
)
def test_keys_that_cannot_be_used(app: object, store: FakeStore, key: str) -> None:
    """A 400 which says what is allowed, and nothing is taken; range=0 is no exception."""
    for size in (10, 0):
        refused = get_range(app, key, size)
        assert refused.status == 400
        assert refused.json["type"] == "bad-idempotency-key"
        assert refused.json["errors"][0]["parameter"] == "Idempotency-Key"
        assert "16 to 128 printable ASCII characters" in refused.json["detail"]
    assert store.transactions == []


def test_an_empty_bundle_has_nothing_to_record(app: object, store: FakeStore) -> None:
    """range=0 with a key is the old answer, and leaves the key free."""
    assert get_range(app, size=0).json == {"startIndex": -1, "endIndex": -3}
    assert store.transactions == []
    assert get_range(app, size=7).json["endIndex"] == 7


@pytest.mark.parametrize(
    ("error", "status", "type"),
    [
        (errors.KeyInFlight(KEY), 409, "idempotency-key-in-flight"),
        (errors.JournalMissing(), 501, "journal-missing"),
    ],
)
def test_what_the_allocator_says_of_keys_has_a_status(
    error: Exception, status: int, type: str
) -> None:
    """In flight is for trying again, a missing table for the operator."""
    refused = get_range(make_app(FakeAllocator(error), Limits()))
    assert (refused.status, refused.json["type"]) == (status, type)
    assert refused.headers.get("Retry-After") == ("1" if status == 409 else None)


# -- what is recorded --------------------------------------------------------------------------


def test_without_a_key_nothing_is_recorded_unless_the_journal_is_on(
    allocator: Allocator, store: FakeStore
) -> None:
    """With it each request is, and both kinds for as long as the settings say."""
    off = make_app(allocator, Limits(), retention=RetentionPolicy(5, False, 3))
    on = make_app(allocator, Limits(), retention=RetentionPolicy(5, True, 3))
    long = make_app(allocator, Limits(), retention=RetentionPolicy(5, True, 7))
    get_range(off, None)
    assert store.inserted == []
    get_range(on, None)
    get_range(off, "a key of the off" + "1")
    get_range(on, "a-key-of-the-on-1"), get_range(long, "a-key-of-the-long"), get_range(long, None)
    get_range(off, "a-key-of-the-off-")
    kept = [(one.key is not None, one.expires - one.time) for one in store.inserted]
    assert kept == [
        (False, 3_000_000),
        (True, 5_000_000),
        (True, 7_000_000),
        (False, 7_000_000),
        (True, 5_000_000),
    ]


def test_who_asked_is_what_the_token_and_the_headers_say(
    allocator: Allocator, store: FakeStore, tmp_path: object
) -> None:
    """Bounded, without control characters, in ASCII; X-Client goes before User-Agent."""
    app = make_app(allocator, Limits(), retention=RetentionPolicy(journal=True))
    get_range(app, None, USER_AGENT="python-requests/2.31")
    get_range(app, None, USER_AGENT="python-requests/2.31", X_CLIENT="ingest", X_REQUEST_ID="r-1")
    get_range(app, None, X_CLIENT="J\xc3\xbcrgen\x00\x1b[31m" + "x" * 500)
    get_range(app, None, X_REQUEST_ID="not an id\n")
    first, second, third, fourth = store.inserted
    assert (first.client, first.caller) == ("python-requests/2.31", "")
    assert re.fullmatch("[0-9a-f]{32}", first.request_id)
    assert (second.client, second.request_id) == ("ingest", "r-1")
    assert third.client == ("J\\xfcrgen??[31m" + "x" * 500)[:128]
    assert fourth.client == ""
    assert re.fullmatch("[0-9a-f]{32}", fourth.request_id)


def test_a_key_counts_within_its_token(
    allocator: Allocator, store: FakeStore, tmp_path: object
) -> None:
    """Two holders of tokens may send the same key and get ranges of their own."""
    import hashlib
    from pathlib import Path

    file = Path(str(tmp_path)) / "tokens"
    file.write_text(
        "".join(f"{n} {hashlib.sha256(n.encode()).hexdigest()}\n" for n in ("one", "two"))
    )
    app = make_app(allocator, Limits(), tokens=Tokens(str(file), "auth_tokens_file"))
    answers = [
        get_range(app, AUTHORIZATION=f"Bearer {name}").json["startIndex"]
        for name in ("one", "two", "one", "two")
    ]
    assert answers == [1, 11, 1, 11]
    assert {one.caller for one in store.inserted} == {"one", "two"}
