"""The client's idempotency keys: against the real service, and through a proxy with every fault."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable

import faulty_proxy
import pytest
import servers

from uniqueid_client import Client, Range, RepeatedRangeError, RequestRefused, ServiceUnavailable

KEY = "upload 4711 of ingest"
PROBLEM = (("Content-Type", "application/problem+json"),)


def keys(proxy: faulty_proxy.Proxy) -> list[str | None]:
    return [asked.headers.get("Idempotency-Key") for asked in proxy.asked]


def test_attempts_for_one_range_share_a_key_and_no_nonce(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """And the next range has another key."""
    client = new_client(proxy.url)
    proxy.plan.extend(
        [faulty_proxy.CLOSE, faulty_proxy.LOSE, faulty_proxy.TRUNCATE, faulty_proxy.GARBAGE]
    )
    client.get_range(mode, 5)
    client.get_range(mode, 5)
    sent = keys(proxy)
    assert len(sent) == 6
    assert None not in sent
    assert len(set(sent[:5])) == 1
    assert sent[5] != sent[0]
    assert len({asked.nonce for asked in proxy.asked}) == 6


@pytest.mark.parametrize(
    "fault",
    [
        faulty_proxy.LOSE,
        faulty_proxy.TRUNCATE,
        faulty_proxy.GARBAGE,
        faulty_proxy.STRIP,
        faulty_proxy.OLD,
    ],
)
def test_an_answer_that_was_lost_leaves_no_gap(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client], fault: str
) -> None:
    """The next attempt gets the range that the first had taken, and it is no repetition."""
    client = new_client(proxy.url)
    for start in (1, 6, 11):
        proxy.plan.extend([fault, fault])
        assert client.get_range(mode, 5) == Range(mode, start, start + 4)


def test_without_keys_it_is_a_gap(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """`keys=False` sends none."""
    client = new_client(proxy.url, keys=False)
    proxy.plan.append(faulty_proxy.LOSE)
    assert client.get_range(mode, 5) == Range(mode, 6, 10)
    assert keys(proxy) == [None, None]


def test_a_range_that_came_before_is_asked_for_with_another_key(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """The same one might bring the same range forever."""
    client = new_client(proxy.url)
    client.get_range(mode, 5)
    proxy.plan.append(faulty_proxy.FORGE)
    assert client.get_range(mode, 5) == Range(mode, 6, 10)
    _first, second, third = keys(proxy)
    assert second != third


def test_a_caller_s_key_brings_its_range_again(
    service: servers.Service, mode: str, new_client: Callable[..., Client]
) -> None:
    """To the same client and to another one, as after a crash; other ranges are not affected."""
    client = new_client(service.url)
    first = client.get_range(mode, 5, key=KEY + mode)
    client.get_range(mode, 3)
    assert client.get_range(mode, 5, key=KEY + mode) == first == Range(mode, 1, 5)
    assert new_client(service.url, keys=False).get_range(mode, 5, key=KEY + mode) == first
    odd = f'" \\ ,;"{mode}'
    assert client.get_range(mode, 1, key=odd) == client.get_range(mode, 1, key=odd)
    assert client.get_range(mode, 1) == Range(mode, 10, 10)
    with pytest.raises(RequestRefused, match="range 5") as refused:
        client.get_range(mode, 6, key=KEY + mode)
    assert (refused.value.status, refused.value.type) == (422, "idempotency-key-reused")


def test_only_what_the_key_had_before_may_come_again(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """IDs of another request are refused, also where the answer says that it was given before."""
    client = new_client(proxy.url, attempts=2)
    first = client.get_range(mode, 5, key=KEY + "one" + mode)
    assert proxy._kept is not None
    for headers in ([], [("Idempotency-Replayed", "true")]):
        proxy._kept = faulty_proxy._Answer(200, proxy._kept.headers + headers, proxy._kept.body)
        proxy.plan.extend([faulty_proxy.FORGE, faulty_proxy.FORGE])
        with pytest.raises(RepeatedRangeError, match="came a second time"):
            client.get_range(mode, 5, key=KEY + "two" + mode)
    assert client.get_range(mode, 5, key=KEY + "two" + mode) == Range(mode, 6, 10)
    assert client.get_range(mode, 5, key=KEY + "one" + mode) == first


def test_a_key_in_flight_is_asked_for_again(
    proxy: faulty_proxy.Proxy, mode: str, new_client: Callable[..., Client]
) -> None:
    """That 409 is no refusal, unlike the others."""
    proxy.plan.append(faulty_proxy.Say(409, PROBLEM, b'{"type": "idempotency-key-in-flight"}'))
    assert new_client(proxy.url).get_range(mode, 5) == Range(mode, 1, 5)
    first, second = keys(proxy)
    assert first == second
    proxy.plan.append(faulty_proxy.Say(409, PROBLEM, b'{"type": "counter-exhausted"}'))
    with pytest.raises(RequestRefused):
        new_client(proxy.url).get_range(mode, 5)


def test_a_service_without_the_table_is_asked_without_a_key(
    proxy: faulty_proxy.Proxy,
    mode: str,
    new_client: Callable[..., Client],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a warning; but not when the key is the caller's, who relies on it."""
    caplog.set_level(logging.WARNING, "uniqueid_client")
    missing = faulty_proxy.Say(501, PROBLEM, b'{"type": "journal-missing", "detail": "run dbsync"}')
    proxy.plan.append(missing)
    assert new_client(proxy.url).get_range(mode, 5) == Range(mode, 1, 5)
    first, second = keys(proxy)
    assert first is not None
    assert second is None
    assert "run dbsync" in caplog.text
    proxy.plan.extend([missing] * 2)
    with pytest.raises(ServiceUnavailable, match="run dbsync"):
        new_client(proxy.url, attempts=2).get_range(mode, 5, key=KEY)


@pytest.mark.parametrize("key", ["", "x" * 15, "x" * 129, "schlüssel-schlüssel", "x" * 16 + "\n"])
def test_a_key_that_cannot_be_sent_is_a_value_error(
    key: str, new_client: Callable[..., Client]
) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match="give 16 to 128 printable ASCII characters"):
        new_client("http://127.0.0.1:1").get_range("file", 1, key=key)


def test_get_takes_a_key(service: servers.Service, mode: str) -> None:
    """And prints the same range again."""
    command = [str(servers.BIN / "pacifica-uniqueid-client"), "get", "--url", service.url]

    def getid(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, "--mode", mode, "--range", "3", *options],
            capture_output=True,
            text=True,
            timeout=servers.START_TIMEOUT,
            check=False,
        )

    assert [getid("--key", KEY + mode).stdout for _time in range(2)] == ["1 3\n", "1 3\n"]
    assert getid().stdout == "4 6\n"
    refused = getid("--key", "short")
    assert refused.returncode == 2
    assert "16 to 128 printable ASCII characters" in refused.stderr
    assert "Traceback" not in refused.stderr
