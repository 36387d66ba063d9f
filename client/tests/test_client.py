"""The Python client: against the real service, and through a proxy with every fault."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import faulty_proxy
import pytest
import requests
import servers

from uniqueid_client import (
    AsyncClient,
    CachedResponseError,
    Client,
    ClientClosed,
    Range,
    RepeatedRangeError,
    RequestRefused,
    ServiceUnavailable,
    __version__,
    process,
    protocol,
    read_token,
)
from uniqueid_client import ids as ids_module

MANY = 20


def waits(client: Client) -> list[float]:
    """Seconds that a client was to wait between its attempts."""
    return client._connections.get().closing.waits  # type: ignore[attr-defined, no-any-return]


# -- ranges ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_ranges_follow_each_other(service: servers.Service, mode: str, method: str) -> None:
    """What one caller gets begins where the one before ended."""
    with Client(service.url, method=method) as client:
        assert client.get_range(mode, 10) == Range(mode, 1, 10)
        assert client.get_range(mode, 1) == Range(mode, 11, 11)


def test_a_range_is_a_frozen_collection_of_its_ids() -> None:
    """Length, iteration and membership are those of its IDs."""
    ids = Range("file", 5, 8)
    assert len(ids) == 4
    assert list(ids) == [5, 6, 7, 8]
    assert 5 in ids
    assert 8 in ids
    assert 4 not in ids
    assert 9 not in ids
    assert "5" not in ids
    with pytest.raises(FrozenInstanceError):
        ids.first = 1  # type: ignore[misc]


def test_the_service_does_not_hang_up_on_a_client_that_keeps_connections(
    service: servers.Service, mode: str
) -> None:
    """uWSGI closes after each answer, and says so; no first attempt fails."""
    with Client(service.url, attempts=1) as client:
        ranges = [client.get_range(mode, 1) for _ in range(300)]
    assert ranges[-1] == Range(mode, 300, 300)


@pytest.mark.parametrize("mode", ["päth ☃", "a b&c=d+e%", "'; DROP TABLE uniqueindex; --"])
def test_any_name_is_a_mode_of_its_own(service: servers.Service, mode: str) -> None:
    """Names arrive as they were given."""
    with Client(service.url + "/") as client:
        first = client.get_range(mode, 3)
    assert first.mode == mode
    assert service.allocate(mode, 1) == (first.last + 1, first.last + 1)


def test_threads_share_a_client(service: servers.Service, mode: str) -> None:
    """Ranges of eight threads are disjoint."""
    with Client(service.url) as client, ThreadPoolExecutor(8) as pool:
        ranges = list(pool.map(lambda size: client.get_range(mode, size), range(1, 81)))
    ids = [id for one in ranges for id in one]
    assert sorted(ids) == list(range(1, sum(range(1, 81)) + 1))


def test_by_default_it_posts_and_asks_caches_to_stand_aside(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """POST, with the words that an honest cache heeds in a request."""
    new_client(proxy.url).get_range(mode, 1)
    (asked,) = proxy.asked
    assert asked.method == "POST"
    assert asked.headers["Cache-Control"] == "no-cache, no-store"
    assert asked.headers["Pragma"] == "no-cache"


def test_sessions_are_the_site_s(proxy: faulty_proxy.Proxy, mode: str) -> None:
    """What a site puts into its sessions goes out with each request."""

    def new_session() -> requests.Session:
        session = requests.Session()
        session.headers["Authorization"] = "Bearer token"
        return session

    with Client(proxy.url, new_session=new_session) as client:
        client.get_range(mode, 1)
    assert proxy.asked[0].headers["Authorization"] == "Bearer token"


# -- stale answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [faulty_proxy.REPEAT, faulty_proxy.STRIP, faulty_proxy.OLD])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_stale_answer_is_got_around(
    proxy: faulty_proxy.Proxy,
    mode: str,
    new_client: Callable[..., Client],
    fault: str,
    method: str,
) -> None:
    """It is not used; the next attempt has another method and another nonce."""
    client = new_client(proxy.url, method=method)
    first = client.get_range(mode, 5)
    proxy.plan.append(fault)
    second = client.get_range(mode, 5)
    assert second.first > first.last
    _, stale, again = proxy.asked
    assert stale.method == method
    assert again.method != method
    assert len({asked.nonce for asked in proxy.asked}) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (faulty_proxy.REPEAT, "the nonce of another request came back"),
        (faulty_proxy.STRIP, "no nonce came back"),
        (faulty_proxy.OLD, "it was stored for some time (Age: 700)"),
    ],
)
def test_a_cache_that_cannot_be_got_around_is_named(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client], fault: str, reason: str
) -> None:
    """The error has its facts: who, how often and why; no ID is used."""
    client = new_client(proxy.url, attempts=4)
    client.get_range(mode, 5)
    proxy.always = fault
    with pytest.raises(CachedResponseError) as caught:
        client.get_range(mode, 5)
    error = caught.value
    assert error.reason == reason
    assert error.attempts == 4
    assert error.via == faulty_proxy.Proxy.VIA
    assert error.server == "faulty/1"
    assert "Via: 1.1 faulty" in str(error)
    assert "Server: faulty/1" in str(error)
    assert reason in str(error)
    asked = proxy.asked[1:]
    assert [one.method for one in asked] == ["POST", "GET", "POST", "GET"]
    assert len({one.nonce for one in asked}) == 4


def test_many_threads_behind_a_cache_see_no_id_twice(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """With half of the answers from memory, what is used is still unique."""
    client = new_client(proxy.url)
    client.get_range(mode, 5)
    proxy.plan.extend([faulty_proxy.REPEAT, faulty_proxy.PASS] * 200)

    def ask(_number: int) -> Range | None:
        try:
            return client.get_range(mode, 5)
        except CachedResponseError:
            return None

    with ThreadPoolExecutor(8) as pool:
        ranges = [one for one in pool.map(ask, range(60)) if one is not None]
    ids = [id for one in ranges for id in one]
    assert len(ids) == len(set(ids)) >= 5 * 30


@pytest.mark.parametrize(
    ("age", "seconds", "new"),
    [
        ("0", 0.001, True),
        ("1", 0.001, True),
        ("2", 0.001, False),
        (" 3 ", 2.5, True),
        ("4", 2.5, False),
        ("", 1, False),
        ("-1", 1, False),
        ("soon", 1, False),
        ("٠", 1, False),
        ("9" * 5000, 1, False),
    ],
)
def test_an_age_above_the_time_that_the_request_took_is_a_copy_s(
    age: str, seconds: float, new: bool
) -> None:
    """Proxies count the time of the answer itself; whole seconds round up."""
    assert protocol.is_new(age, seconds) is new


def test_varnish_s_age_of_zero_is_no_cache(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """With the nonce to prove it, an Age of 0 is what Varnish says of answers it passes on."""
    proxy.always = faulty_proxy.YOUNG
    client = new_client(proxy.url, attempts=1)
    assert client.get_range(mode, 5) == Range(mode, 1, 5)


def test_an_age_of_zero_without_a_nonce_is_refused(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """Nothing tells it from a copy of the same second."""
    body = json.dumps({"startIndex": 1, "endIndex": 5}).encode()
    proxy.always = faulty_proxy.Say(200, (("Age", "0"),), body)
    with pytest.raises(CachedResponseError):
        new_client(proxy.url, attempts=1).get_range(mode, 5)


def test_the_document_proves_what_a_proxy_drops_from_the_header(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """A proxy that lets only known headers through is no cache."""
    proxy.always = faulty_proxy.STRIP_HEADER
    assert new_client(proxy.url, attempts=1).get_range(mode, 5) == Range(mode, 1, 5)


def test_ids_seen_before_are_refused_whatever_the_nonce_says(
    proxy: faulty_proxy.Proxy,
    mode: str,
    new_client: Callable[..., Client],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A range that came before, under the right nonce, is got around, or named in the error."""
    client = new_client(proxy.url, attempts=3)
    first = client.get_range(mode, 5)
    proxy.plan.append(faulty_proxy.FORGE)
    second = client.get_range(mode, 5)
    assert second.first > first.last
    assert [record.levelname for record in caplog.records if record.name == "uniqueid_client"] == [
        "ERROR"
    ]
    proxy.always = faulty_proxy.FORGE
    with pytest.raises(RepeatedRangeError, match=r"IDs 1 to 5 of mode .* came a second time"):
        client.get_range(mode, 5)
    assert len(proxy.asked) == 1 + 2 + 3
    assert issubclass(RepeatedRangeError, CachedResponseError)


def test_a_kept_error_is_got_around(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """A refusal that was made for another request says nothing of this one."""
    other = (("X-Request-Nonce", "another"), ("Content-Type", "application/problem+json"))
    proxy.plan.append(faulty_proxy.Say(400, other, b'{"type": "bad-mode", "detail": "no"}'))
    assert new_client(proxy.url).get_range(mode, 5) == Range(mode, 1, 5)


def test_seen_ranges_are_remembered_as_intervals() -> None:
    """Overlaps of every kind are found; neighbours are stored as one; the memory is bounded."""
    seen = process.RangeSet()
    assert seen.add(10, 20)
    assert seen.add(30, 40)
    for start, stop in ((10, 20), (10, 11), (19, 20), (5, 11), (19, 25), (5, 50), (12, 13)):
        assert not seen.add(start, stop), (start, stop)
    assert seen.add(20, 30)
    assert seen.add(5, 10)
    assert seen.add(40, 41)
    assert (seen.starts, seen.stops) == ([5], [41])
    for start in range(100, 100 + 2 * process.MAX_SEEN, 2):
        assert seen.add(start, start + 1)
    assert len(seen.starts) == process.MAX_SEEN
    assert not seen.add(102, 103)


# -- retries -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        faulty_proxy.CLOSE,
        faulty_proxy.LOSE,
        faulty_proxy.TRUNCATE,
        faulty_proxy.GARBAGE,
        faulty_proxy.Say(200, (("X-Request-Nonce", ""),)),
        faulty_proxy.Say(429),
        faulty_proxy.Say(500),
        faulty_proxy.Say(502),
        faulty_proxy.Say(504),
    ],
)
def test_a_failed_attempt_is_repeated_with_a_new_nonce(
    proxy: faulty_proxy.Proxy,
    mode: str,
    new_client: Callable[..., Client],
    fault: faulty_proxy.Fault,
) -> None:
    """Its IDs may be lost; they are never used twice."""
    client = new_client(proxy.url)
    first = client.get_range(mode, 5)
    proxy.plan.extend([fault, fault])
    second = client.get_range(mode, 5)
    assert second.first > first.last
    assert len(proxy.asked) == 4
    assert len({asked.nonce for asked in proxy.asked}) == 4


@pytest.mark.parametrize("keys", [True, False])
def test_a_proxy_that_delays_is_given_up(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client], keys: bool
) -> None:
    """After the time-out the next attempt goes out, and a late answer, to the same key, has no
    reader."""
    client = new_client(proxy.url, timeout=1, keys=keys)
    proxy.plan.append(faulty_proxy.HOLD)
    first = client.get_range(mode, 5)
    before = len(proxy.answers)
    proxy.release.set()
    servers.wait_until(lambda: len(proxy.answers) > before, "the late answer")
    late = json.loads(proxy.answers[-1])["startIndex"]
    assert (late in first) is keys
    second = client.get_range(mode, 5)
    assert late not in second
    assert second.first > first.last


def test_what_does_not_help_is_given_up_with_the_cause(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """After the last attempt the error says how often and what came."""
    proxy.always = faulty_proxy.Say(502)
    with pytest.raises(ServiceUnavailable) as caught:
        new_client(proxy.url, attempts=3).get_range(mode, 5)
    assert caught.value.attempts == 3
    assert str(caught.value) == f"{proxy.url}/getid did not answer in 3 attempts: 502: Bad Gateway"
    assert len(proxy.asked) == 3


@pytest.mark.parametrize(
    ("fault", "timeout", "cause"),
    [
        (None, 15, "Connection refused"),
        (faulty_proxy.CLOSE, 15, "Remote end closed connection without response"),
        (faulty_proxy.HOLD, 0.2, "no answer within 0.2 seconds"),
    ],
)
def test_why_there_was_no_answer_is_said_in_a_few_words(
    proxy: faulty_proxy.Proxy,
    mode: str,
    new_client: Callable[..., Client],
    fault: str | None,
    timeout: float,
    cause: str,
) -> None:
    """Not in three layers of wrapping, and without the credentials of the URL."""
    proxy.always = fault or faulty_proxy.PASS
    port = proxy.url.rpartition(":")[2] if fault else str(servers.free_port())
    client = new_client(f"http://user:secret@127.0.0.1:{port}", attempts=1, timeout=timeout)
    with pytest.raises(ServiceUnavailable) as caught:
        client.get_range(mode, 5)
    expected = f"http://127.0.0.1:{port}/getid did not answer in 1 attempt: {cause}"
    assert str(caught.value) == expected


def test_the_wait_between_attempts_is_random_below_a_growing_bound(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """Full jitter, doubled each time, bounded."""
    proxy.always = faulty_proxy.Say(503)
    client = new_client(proxy.url, attempts=40)
    with pytest.raises(ServiceUnavailable):
        client.get_range(mode, 5)
    waited = waits(client)
    assert len(waited) == 39
    for attempt, wait in enumerate(waited):
        assert 0 <= wait <= min(10, 0.1 * 2**attempt)
    assert len(set(waited)) > 30
    assert min(waited[10:]) < 5 < max(waited[10:])


def test_retry_after_is_honoured(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """In seconds or as a date; what cannot be read counts as nothing."""
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=50), usegmt=True)
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=50), usegmt=True)
    for text in ("7", soon, past, "rubbish", "-3"):
        proxy.plan.append(faulty_proxy.Say(503, (("Retry-After", text),)))
    client = new_client(proxy.url)
    client.get_range(mode, 5)
    seven, date, *nothing = waits(client)
    assert 7 <= seven <= 7.1
    # The machine may have taken its time since `soon`.
    assert 0.2 < date <= 50.2
    assert len(nothing) == 3
    assert max(nothing) <= 1.6


def test_a_service_that_wants_to_be_left_alone_for_long_is(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """No client waits for an hour by default."""
    proxy.always = faulty_proxy.Say(503, (("Retry-After", "3600"),))
    with pytest.raises(ServiceUnavailable) as caught:
        new_client(proxy.url).get_range(mode, 5)
    assert caught.value.attempts == 1
    assert len(proxy.asked) == 1


# -- refusals ----------------------------------------------------------------------------------


def test_the_service_s_no_is_final_and_says_why(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """A 400 is not repeated; its type and text reach the caller."""
    with pytest.raises(RequestRefused) as caught:
        new_client(proxy.url).get_range(mode, 2_000_000_000)
    assert caught.value.status == 400
    assert caught.value.type == "bad-range"
    assert "range is '2000000000': give one whole number from 0 to" in str(caught.value)
    assert len(proxy.asked) == 1


def test_a_wrong_path_is_refused(service: servers.Service, mode: str) -> None:
    """A 404 is an error of configuration."""
    with Client(service.url + "/wrong") as client, pytest.raises(RequestRefused) as caught:
        client.get_range(mode, 1)
    assert caught.value.status == 404
    there = f"{service.url}/wrong/getid"
    assert str(caught.value) == f"{there} answered 404: there is nothing at /wrong/getid"


def test_a_redirect_is_not_followed(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """It would turn the POST into a GET, and would cost a round trip each time."""
    proxy.always = faulty_proxy.Say(301, (("Location", "https://elsewhere/getid"),))
    with pytest.raises(RequestRefused, match="redirects to https://elsewhere/getid: give the"):
        new_client(proxy.url).get_range(mode, 1)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "uniqueid:8051",
        "ftp://host",
        "http://",
        "http://host?x=1",
        "http://h:port",
        "http://[::1",
    ],
)
def test_a_url_that_cannot_be_asked_is_refused(url: str) -> None:
    """One line with the parameter, its value and what is allowed."""
    with pytest.raises(ValueError, match=r"^url is .*give http://HOST"):
        Client(url)


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"timeout": float("nan")}, {"attempts": 0}, {"method": "PUT"}]
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, object]) -> None:
    """One line with the parameter, its value and what is allowed."""
    (name,) = options
    with pytest.raises(ValueError, match=rf"^{name} is .*: give "):
        Client("http://127.0.0.1:1", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "3", None])
def test_a_count_that_is_none_is_refused(count: object) -> None:
    """Before anything is sent."""
    with Client("http://127.0.0.1:1") as client, pytest.raises(ValueError, match=r"^count is "):
        client.get_range("m", count)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["", "m" * 256, "\ud800", None, 3])
def test_a_mode_that_is_none_is_refused(mode: object) -> None:
    """Before anything is sent."""
    with Client("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match=r"^mode is "):
            client.get_range(mode, 1)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"^mode is "):
            client.ids(mode)  # type: ignore[arg-type]


def test_steps_that_cannot_be_used_are_refused() -> None:
    """The least is not above the most."""
    with Client("http://127.0.0.1:1") as client:
        for low, high in ((0, 5), (6, 5)):
            with pytest.raises(ValueError, match=r"^min_step is .*: give "):
                client.ids("m", min_step=low, max_step=high)


# -- ids ---------------------------------------------------------------------------------------


def test_ids_come_without_end_and_never_twice(service: servers.Service, mode: str) -> None:
    """One thread sees them in order, across many ranges."""
    with Client(service.url) as client:
        ids = list(islice(client.ids(mode), 50_000))
    assert ids == sorted(set(ids))
    assert ids[0] == 1


def test_threads_share_an_iterator(service: servers.Service, mode: str) -> None:
    """Eight threads on one iterator never get the same ID."""
    with Client(service.url) as client:
        ids = client.ids(mode, max_step=500)

        def take(_number: int) -> list[int]:
            return list(islice(ids, 5_000))

        with ThreadPoolExecutor(8) as pool:
            taken = [id for part in pool.map(take, range(8)) for id in part]
    assert len(taken) == len(set(taken)) == 40_000


def test_iterators_and_ranges_are_disjoint(service: servers.Service, mode: str) -> None:
    """Each iterator has ranges of its own."""
    with Client(service.url) as client:
        one, two = client.ids(mode), client.ids(mode)
        taken = [id for _ in range(300) for id in (next(one), next(two))]
        taken += client.get_range(mode, 10)
    assert len(taken) == len(set(taken))


def test_the_next_range_is_asked_for_when_half_is_left(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """In the background: the rest is allocated while the answer is still on the way."""
    ids = new_client(proxy.url).ids(mode, min_step=10, max_step=10)
    proxy.plan.extend([faulty_proxy.PASS, faulty_proxy.HOLD])
    assert [next(ids) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert len(proxy.asked) == 1
    assert next(ids) == 6
    servers.wait_until(lambda: len(proxy.asked) == 2, "the prefetch")
    assert [next(ids) for _ in range(4)] == [7, 8, 9, 10]
    assert len(proxy.asked) == 2
    proxy.release.set()
    assert next(ids) == 11


@pytest.mark.parametrize("step", [1, 2, 3])
def test_the_smallest_steps_work(service: servers.Service, mode: str, step: int) -> None:
    """Also where a range has no half."""
    with Client(service.url) as client:
        ids = client.ids(mode, min_step=step, max_step=step)
        assert list(islice(ids, 20)) == list(range(1, 21))


def test_the_step_follows_the_rate_between_its_bounds(
    proxy: faulty_proxy.Proxy,
    mode: str,
    new_client: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hungry consumer gets ten times more each time, a slow one soon the least again."""
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(ids_module, "time", clock)
    ids = new_client(proxy.url).ids(mode, min_step=10, max_step=5_000)

    def take_range(number: int, seconds: float) -> None:
        """Use the IDs up to the low-water mark after the given number of ranges."""
        while len(proxy.asked) < number:
            now[0] += seconds / proxy.asked[-1].count if proxy.asked else 0
            before = ids._buffer._call
            next(ids)
            call = ids._buffer._call
            if call is not None and call is not before:
                servers.wait_until(call.done, "the prefetch")

    take_range(5, 0.001)
    assert [asked.count for asked in proxy.asked] == [10, 100, 1_000, 5_000, 5_000]
    take_range(9, 100)
    assert [asked.count for asked in proxy.asked][-1] == 10


def test_an_error_is_not_seen_while_there_are_ids(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """A prefetch that failed is repeated when its range is needed; only then it raises."""
    ids = new_client(proxy.url, attempts=1).ids(mode, min_step=10, max_step=10)
    assert list(islice(ids, 5)) == [1, 2, 3, 4, 5]
    proxy.always = faulty_proxy.Say(503)
    assert next(ids) == 6
    call = ids._buffer._call
    assert call is not None
    servers.wait_until(call.done, "the prefetch to fail")
    assert list(islice(ids, 4)) == [7, 8, 9, 10]
    with pytest.raises(ServiceUnavailable):
        next(ids)
    proxy.always = faulty_proxy.PASS
    assert next(ids) == 11


def test_a_cache_in_front_is_noticed_by_the_iterator(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """No ID of a stale answer comes out of it."""
    ids = new_client(proxy.url, attempts=2).ids(mode, min_step=10, max_step=10)
    proxy.plan.append(faulty_proxy.PASS)
    proxy.always = faulty_proxy.REPEAT
    assert list(islice(ids, 10)) == list(range(1, 11))
    for _ in range(3):
        with pytest.raises(CachedResponseError):
            next(ids)


def test_threads_see_no_id_twice_whatever_the_proxy_does(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """With two of three answers faulty, threads, iterators and ranges stay disjoint."""
    faults = [
        faulty_proxy.REPEAT,
        faulty_proxy.STRIP,
        faulty_proxy.FORGE,
        faulty_proxy.OLD,
        faulty_proxy.CLOSE,
        faulty_proxy.LOSE,
        faulty_proxy.TRUNCATE,
        faulty_proxy.GARBAGE,
        faulty_proxy.Say(503),
    ]
    chance = random.Random(20)
    proxy.plan.append(faulty_proxy.PASS)
    proxy.plan.extend(
        chance.choice([faulty_proxy.PASS] * 5 + faults)
        if chance.random() < 0.9
        else faulty_proxy.REPEAT
        for _ in range(2_000)
    )
    client = new_client(proxy.url)
    shared = client.ids(mode, min_step=5, max_step=5)

    def take(number: int) -> list[int]:
        own = client.ids(mode, min_step=3, max_step=7)
        taken = []
        for step in range(60):
            try:
                if step % 10 == number % 10:
                    taken += client.get_range(mode, 4)
                else:
                    taken.append(next(own if step % 2 else shared))
            except (CachedResponseError, ServiceUnavailable):
                pass
        return taken

    with ThreadPoolExecutor(8) as pool:
        ids = [id for part in pool.map(take, range(8)) for id in part]
    assert len(proxy.plan) > 0
    assert len(ids) == len(set(ids)) > 400


def test_without_more_threads_the_caller_waits_itself(
    service: servers.Service, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process at its limit of threads, or on its way out, still gets IDs."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Client(service.url) as client:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        for step in (1, 10):
            ids = client.ids(mode, min_step=step, max_step=step)
            taken = list(islice(ids, 35))
            assert len(set(taken)) == 35
        monkeypatch.undo()


FORKS = """
import ctypes, os, sys
from itertools import islice
from uniqueid_client import Client, process

{preparation}
client = Client({url!r})
ids = client.ids({mode!r}, min_step=100, max_step=100)
out = list(islice(ids, 40))  # No prefetch yet: its thread would not survive a fork without hooks.

def report(ids):
    os.write(1, (" ".join(map(str, ids)) + "\\n").encode())

def use():
    # A child may begin with either.
    order = [lambda: islice(ids, 250), lambda: client.get_range({mode!r}, 5)]
    return [id for one in (order if os.getpid() % 2 else reversed(order)) for id in one()]

children = []
for child in range(2):
    pid = {fork}()
    if pid == 0:
        grandchild = {fork}()
        if grandchild == 0:
            report(use())
            os._exit(0)
        report(use())
        os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
    children.append(pid)
report(out + list(islice(ids, 250)))
sys.exit(any(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children))
"""


@pytest.mark.parametrize(
    ("fork", "preparation"),
    [
        ("os.fork", ""),
        # A program that embeds Python may fork without running the hooks.
        ("ctypes.PyDLL(None).fork", ""),
        # Where the kernel wipes no memory.
        ("os.fork", "process.mark = process.ProcessID()"),
        # There a grandchild may have the process ID of an ancestor that has ended.
        ("os.fork", "process.mark = process.ProcessID(); os.getpid = lambda: 4711"),
    ],
    ids=["fork", "fork without hooks", "no wiped memory", "same process ID"],
)
def test_nothing_is_shared_across_a_fork(
    service: servers.Service, mode: str, fork: str, preparation: str
) -> None:
    """Parent, children and their children continue with the same iterator, and share no ID."""
    script = FORKS.format(url=service.url, mode=mode, preparation=preparation, fork=fork)
    result = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    lines = [list(map(int, line.split())) for line in result.stdout.splitlines()]
    assert sorted(map(len, lines)) == [255, 255, 255, 255, 290]
    ids = [id for line in lines for id in line]
    assert len(ids) == len(set(ids))


def test_without_the_gil_an_iterator_is_locked(
    service: servers.Service, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that share it get disjoint IDs there too."""
    monkeypatch.setattr(ids_module, "_FREE_THREADED", True)
    with Client(service.url) as client, ThreadPoolExecutor(4) as pool:
        ids = client.ids(mode, max_step=50)
        parts = list(pool.map(lambda _number: list(islice(ids, 500)), range(4)))
    assert len({id for part in parts for id in part}) == 2_000


# -- the end -----------------------------------------------------------------------------------


def test_a_closed_client_says_so(service: servers.Service, mode: str) -> None:
    """Ranges, iterators and their makers alike; closing twice is nothing special."""
    client = Client(service.url)
    ids = client.ids(mode)
    next(ids)
    client.close()
    client.close()
    for use in (lambda: client.get_range(mode, 1), lambda: next(ids), lambda: client.ids(mode)):
        with pytest.raises(ClientClosed, match="the client was closed"):
            use()


def test_closing_ends_the_waiting(proxy: faulty_proxy.Proxy, mode: str) -> None:
    """A thread between two attempts is told at once."""
    proxy.always = faulty_proxy.Say(503, (("Retry-After", "59"),))
    client = Client(proxy.url)
    ids = client.ids(mode)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.get_range, mode, 1), pool.submit(next, ids)]
        servers.wait_until(lambda: len(proxy.asked) == 2, "the first attempts")
        client.close()
        for future in waiting:
            with pytest.raises(ClientClosed):
                future.result(50)


def test_an_iterator_that_nobody_holds_goes_away(service: servers.Service, mode: str) -> None:
    """The client keeps no iterator alive."""
    with Client(service.url) as client:
        ids = client.ids(mode)
        next(ids)
        assert len(client._iterators) == 1
        del ids
        gc.collect()
        assert len(client._iterators) == 0


# -- what the service and the caller learn -----------------------------------------------------


def test_the_service_learns_who_asks(proxy: faulty_proxy.Proxy, mode: str) -> None:
    """The client has a User-Agent of its own, and the name that the program gives."""
    with Client(proxy.url) as client:
        client.get_range(mode, 1)
    with Client(proxy.url, name="ingest") as client:
        client.get_range(mode, 1)
    agent = f"pacifica-uniqueid-client/{__version__}"
    assert [asked.headers["User-Agent"] for asked in proxy.asked] == [agent, agent]
    assert [asked.headers["X-Client"] for asked in proxy.asked] == [agent, "ingest"]
    for name in ("", "x" * 129, "name\n", "Jürgen"):
        with pytest.raises(ValueError, match=r"name is .*: give 1 to 128 printable ASCII"):
            Client(proxy.url, name=name)


def test_a_repr_has_no_credentials() -> None:
    """The URL of requests and the name, for both clients; iterators have their mode."""
    client = Client("http://user:secret@ids:8051/path/", name="ingest", token="secret")
    assert repr(client) == "Client('http://ids:8051/path/getid', name='ingest')"
    assert repr(client.ids("file")) == "IDs(mode='file')"
    assert repr(AsyncClient("http://ids:8051", name="x")) == (
        "AsyncClient('http://ids:8051/getid', name='x')"
    )


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_environment_names_service_and_token(
    kind: type[Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UNIQUEID_URL and UNIQUEID_TOKEN_FILE; the options are those of the constructor."""
    with pytest.raises(ValueError, match="UNIQUEID_URL is not set"):
        kind.from_env()
    monkeypatch.setenv("UNIQUEID_URL", "http://ids:8051")
    assert repr(kind.from_env(name="x")).endswith("Client('http://ids:8051/getid', name='x')")
    monkeypatch.setenv("UNIQUEID_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(ValueError, match="No such file"):
        Client.from_env().get_range("file", 1)


def test_the_token_of_the_environment_is_sent_and_may_change(
    proxy: faulty_proxy.Proxy, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is read for every attempt."""
    monkeypatch.setenv("UNIQUEID_URL", proxy.url)
    monkeypatch.setenv("UNIQUEID_TOKEN_FILE", str(tmp_path / "token"))
    with Client.from_env() as client:
        for token in ("one", "two"):
            (tmp_path / "token").write_text(f"{token}\n")
            client.get_range(mode, 1)
    assert [asked.headers["Authorization"] for asked in proxy.asked] == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("token", ["", "a b", "ä", "a\nb", "x" * 513, "=a"])
def test_a_token_that_cannot_be_sent_is_refused_without_being_shown(
    tmp_path: Path, token: str
) -> None:
    """As a text, from a function, and in a file."""
    for use in (
        lambda: Client("http://localhost", token=token),
        lambda: Client("http://localhost", token=lambda: token).get_range("file", 1),
    ):
        with pytest.raises(ValueError, match="token") as error:
            use()
        assert token == "" or token not in str(error.value)
    file = tmp_path / "token"
    file.write_text(token)
    with pytest.raises(ValueError, match=str(file)):
        read_token(str(file))


# -- the deadline ------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [15.0, (5.0, 15.0)])
def test_the_deadline_ends_an_attempt(
    proxy: faulty_proxy.Proxy, mode: str, timeout: float | tuple[float, float]
) -> None:
    """Whatever the time-outs of an attempt are; the time-outs are cut to what is left."""
    proxy.always = faulty_proxy.HOLD
    with Client(proxy.url, timeout=timeout, deadline=0.3) as client:
        with pytest.raises(ServiceUnavailable, match=r"no answer within 0\.\d+ seconds") as caught:
            client.get_range(mode, 1)
        assert caught.value.attempts == 1


def test_no_wait_begins_that_the_deadline_would_end(proxy: faulty_proxy.Proxy, mode: str) -> None:
    """The service wants a minute, and there are 30 seconds: the error is raised at once."""
    proxy.always = faulty_proxy.Say(503, (("Retry-After", "60"),))
    with Client(proxy.url, deadline=30) as client:
        with pytest.raises(ServiceUnavailable, match="503") as caught:
            client.get_range(mode, 1)
        assert caught.value.attempts == 1


class Trickle:
    """Answers with one byte now and then, without an end."""

    def __init__(self, start: bytes) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.start = start
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        connection, _ = self.socket.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(self.start)
            while not self.ended.wait(0.02):
                connection.sendall(b"x")

    def __enter__(self) -> Trickle:
        return self

    def __exit__(self, *_error: object) -> None:
        self.ended.set()
        self.thread.join()
        self.socket.close()


SLOW = [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n"]


@pytest.mark.parametrize("start", SLOW, ids=["header", "body"])
def test_the_deadline_ends_a_response_that_trickles(mode: str, start: bytes) -> None:
    """No read takes long, and the response has no end; ranges and iterators alike."""
    for use in (lambda client: client.get_range(mode, 1), lambda client: next(client.ids(mode))):
        with (
            Trickle(start) as server,
            Client(server.url, deadline=0.3) as client,
            pytest.raises(ServiceUnavailable, match=r"within 0\.\d+ seconds"),
        ):
            use(client)


def test_closing_ends_an_attempt(proxy: faulty_proxy.Proxy, mode: str) -> None:
    """The caller does not wait for the response."""
    proxy.always = faulty_proxy.HOLD
    client = Client(proxy.url)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get_range, mode, 1)
        servers.wait_until(lambda: proxy.asked, "the attempt")
        client.close()
        with pytest.raises(ClientClosed):
            waiting.result(50)
    assert not proxy.release.is_set()


def test_the_distribution_needs_few_others_and_no_compiler(tmp_path: Path) -> None:
    """It installs into an empty environment without a compiler, and brings at most 8 others."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv/bin/python")
    (wheel,) = (servers.BIN.parent / "dist").glob("pacifica_uniqueid_client-*.whl")
    # Without a compiler in its path, and the machine's own settings of pip.
    environment = {"PATH": str(tmp_path / "venv/bin"), "HOME": os.path.expanduser("~")}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--only-binary=:all:", str(wheel)],
        check=True,
        env={**environment, "CC": "/bin/false"},
    )
    script = (
        "import importlib.metadata as m, uniqueid_client, sys;"
        "d = [x for x in m.distributions() if x.name not in ('pip', 'setuptools', 'wheel')];"
        "print(len(d)); print(len([f for x in d for f in x.files]) == "
        "len({str(f.locate()) for x in d for f in x.files}));"
        "print(sorted(set(sys.modules) & {'bottle', 'pony', 'uniqueid'}))"
    )
    output = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    count, disjoint, server = output.stdout.splitlines()
    assert 2 < int(count) <= 1 + 8
    # No distribution has a file of another one.
    assert (disjoint, server) == ("True", "[]")
    version = [str(tmp_path / "venv/bin/pacifica-uniqueid-client"), "--version"]
    output = subprocess.run(version, capture_output=True, text=True, check=True)
    assert output.stdout == f"pacifica-uniqueid-client {__version__}\n"
